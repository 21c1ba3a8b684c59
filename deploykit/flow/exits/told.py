"""The document beside the stages: how to run them with ONNX Runtime and NumPy, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.load.inputs import input_text

if TYPE_CHECKING:
    from deploykit.core.types import OnnxArtifact
    from deploykit.runtimes.dynamic.record import StageRecord, Stages

_CODE = '''\
import json
from pathlib import Path

import numpy as np
import onnxruntime


def sure(rule, threshold, temperature, logits, said):
    """Which samples leave: said has the class of every exit so far, the newest last."""
    scaled = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    shares = scaled / scaled.sum(1, keepdims=True)
    if rule == "confidence":
        return shares.max(1) >= threshold
    if rule == "margin":
        second, first = np.sort(shares, 1)[:, -2:].T
        return first - second >= threshold
    if rule == "entropy":
        nats = -(shares * np.log(np.maximum(shares, 1e-38))).sum(1)
        return nats / np.log(shares.shape[1]) <= threshold
    agree, still = np.ones(len(logits)), np.ones(len(logits), bool)  # patience
    for earlier in reversed(said[:-1]):
        still &= earlier == said[-1]
        agree += still
    return agree >= threshold


class Stages:
    def __init__(self, folder):
        record = json.loads((Path(folder) / "stages.json").read_text())
        self.rule, self.stages = record["rule"], record["stages"]
        self.sessions = [
            onnxruntime.InferenceSession(Path(folder) / stage["file"]) for stage in self.stages
        ]

    def run(self, feeds):
        """Inputs by name -> logits [N, classes], and the number of each sample's exit [N]."""
        values, axes, rows, said = dict(feeds), {}, None, []
        for number, (stage, session) in enumerate(zip(self.stages, self.sessions)):
            axes.update({one["name"]: one["axis"] for one in stage["takes"] + stage["gives"]})
            names = [output.name for output in session.get_outputs()]
            taken = {one["name"]: values[one["name"]] for one in stage["takes"]}
            found = dict(zip(names, session.run(names, taken)))
            logits = found.pop(stage["exit"])
            if rows is None:
                rows = np.arange(len(logits))
                answer, exits = np.empty_like(logits), np.empty(len(logits), int)
            said.append(logits.argmax(1))
            leave = np.full(len(logits), number == len(self.stages) - 1)
            if stage["threshold"] is not None:
                leave = sure(self.rule, stage["threshold"], stage["temperature"], logits, said)
            answer[rows[leave]], exits[rows[leave]] = logits[leave], number
            if leave.all():
                break
            values.update(found)
            stay, rows = ~leave, rows[~leave]  # go on with those alone that have not left
            said = [one[stay] for one in said]
            for name in values:
                if axes.get(name) is not None:
                    values[name] = np.compress(stay, values[name], axis=axes[name])
        return answer, exits
'''


def document(stages: Stages, artifact: OnnxArtifact) -> str:
    """Markdown: what the files are, and a program that runs them."""
    rows = "\n".join(
        f"| {stage.file} | {', '.join(one.name for one in stage.takes)} | {stage.exit} | "
        f"{', '.join(one.name for one in stage.gives) or '-'} | "
        f"{_said(stages, stage)} |"
        for stage in stages.stages
    )
    inputs = ", ".join(f"`{input_text(spec)}`" for spec in artifact.inputs)
    data = [file.path for file in artifact.files if file.role == "weights"]
    weights = f" All weights are in {', '.join(data)}." if data else ""
    return f"""# How to run this network stage by stage

The network answers at {len(stages.stages)} exits. It takes {inputs}. Each stage is an ONNX graph
of its own; a sample whose exit is sure enough leaves there, the others go on to the next stage.
{weights}

| file | takes | answers with | gives | who leaves |
| --- | --- | --- | --- | --- |
{rows}

`stages.json` says the same to programs. Of each tensor `axis` is the dimension that the samples
lie in (null: it is the same for all of them, and passes as it is). `threshold` null: nobody leaves
there; at the last stage all do. Logits are divided by `temperature` before the softmax of the rule.

With deploykit: `deploykit bench FOLDER` and `deploykit.runtimes.dynamic`. Without:

```python
{_CODE}```

`Stages("FOLDER").run({{{", ".join(f'"{spec.name}": array' for spec in artifact.inputs)}}})`
"""


def _said(stages: Stages, stage: StageRecord) -> str:
    if stage.threshold is None:
        return "all" if stage is stages.stages[-1] else "nobody"
    sign = "<=" if stages.rule == "entropy" else ">="
    return f"{stages.rule} {sign} {stage.threshold:.6g}"
