"""Shell completion: the scripts that the README tells users to source, and what they offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from deploykit.cli.main import COMMANDS

SCRIPTS = Path(sysconfig.get_path("scripts"))


def _run(**variables: str) -> str:
    ended = subprocess.run(
        [str(SCRIPTS / "deploykit")],
        env={**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_it_can_read(shell: str) -> None:
    script = _run(_DEPLOYKIT_COMPLETE=f"{shell}_source")

    assert "_DEPLOYKIT_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


def test_commands_are_completed() -> None:
    out = _run(_DEPLOYKIT_COMPLETE="bash_complete", COMP_WORDS="deploykit ", COMP_CWORD="1")

    assert out.split() == [f"plain,{line.name}" for line in COMMANDS]


def test_options_of_a_command_are_completed() -> None:
    out = _run(
        _DEPLOYKIT_COMPLETE="bash_complete", COMP_WORDS="deploykit inspect --ba", COMP_CWORD="2"
    )

    assert out.split() == ["plain,--batch"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on this system")
def test_bash_completes_after_the_line_of_the_readme() -> None:
    script = """
        eval "$(_DEPLOYKIT_COMPLETE=bash_source deploykit)"
        COMP_WORDS=(deploykit ins); COMP_CWORD=1
        _deploykit_completion deploykit
        echo "${COMPREPLY[@]}"
    """
    ended = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["inspect"]
