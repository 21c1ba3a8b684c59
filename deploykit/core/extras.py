"""Turn a missing package into the line that installs it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploykit.core.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap the imports that the extra `name` brings.

    Args:
        name: an extra of pyproject.toml (`compress`, `data` ...), or the name of a package that
            no extra brings (`timm`, `torchvision`), written `package:NAME`.

    Raises:
        MissingExtraError: an import inside failed because the package is not there. An import
            that fails for another reason (a broken package) is passed on as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package, _, plain = name.partition(":")
        line = (
            f"pip install {plain}" if package == "package" else f"pip install 'deploykit[{name}]'"
        )
        raise MissingExtraError(f"{error.name} is not installed: {line}") from error
