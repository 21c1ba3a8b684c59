"""What became of one network that was to be pruned, told line by line by the child that tried.

Its times are of the processor (one thread), so that what else the machine does matters little.
A child prints the whole record again, as one line of JSON, whenever it has learnt more: what was
known is not lost when it is ended for taking too long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

RATIOS = (0.5, 0.3)
LEAST_SHARE = 1 / 3  # of what was asked; less is called a silent no-op


@dataclass(frozen=True, slots=True)
class Trial:
    """One ratio.

    Attributes:
        ratio: share of the channels that was asked for.
        seconds: choice and cut, without the analysis.
        parameters: what is left.
        forward: whether a batch of 2 went through it, to outputs of the old shape.
        backward: whether its gradients came back.
        exact_error: worst relative difference from the masked original in float64, or `None`
            where nobody asked or the oracle does not apply.
        parity: worst relative difference of the ONNX file, or `None` where nobody asked.
        intact: whether the user's own class runs and agrees; `None` where nobody asked.
        how: what had to be given beside the defaults, or "".
        why: what went wrong, in one line, or "".
    """

    ratio: float
    seconds: float | None = None
    parameters: int | None = None
    forward: bool = False
    backward: bool = False
    exact_error: float | None = None
    parity: float | None = None
    intact: bool | None = None
    how: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One network in the hands of one tool.

    Attributes:
        network: its key in the zoo.
        parameters: before pruning.
        weight_bytes: of its parameters and buffers.
        analysis_s: from the network to the list of everything that can be cut, or `None` where
            that did not end.
        peak_rss_bytes: of the process, from the built network up to the first cut.
        locked: parts that the tool refused, with its reasons.
        trials: those that were begun, by ratio.
        why: what ended it before its time, or "".
    """

    network: str
    parameters: int = 0
    weight_bytes: int = 0
    analysis_s: float | None = None
    peak_rss_bytes: int | None = None
    locked: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    why: str = ""

    def with_trial(self, trial: Trial) -> Outcome:
        """The same with a trial added, or put in the place of the one with its ratio."""
        others = [known for known in self.trials if known.ratio != trial.ratio]
        return replace(self, trials=(*others, trial))

    def trial(self, ratio: float) -> Trial:
        """What became of a ratio; nothing where it was never reached."""
        for trial in self.trials:
            if trial.ratio == ratio:
                return trial
        return Trial(ratio, why=self.why or "not reached")

    def share_removed(self, ratio: float) -> float:
        """Share of the parameters that went."""
        left = self.trial(ratio).parameters
        return 0.0 if left is None or not self.parameters else 1 - left / self.parameters

    def pruned(self, ratio: float) -> bool:
        """Whether it is smaller by a third of what was asked or more, runs and trains."""
        trial = self.trial(ratio)
        return trial.forward and trial.backward and not self.silent(ratio)

    def silent(self, ratio: float) -> bool:
        """Whether nothing went wrong and (almost) nothing went."""
        trial = self.trial(ratio)
        return trial.forward and self.share_removed(ratio) < LEAST_SHARE * ratio


def tell(outcome: Outcome) -> None:
    """Say what is known so far, on standard output."""
    print(msgspec.json.encode(outcome).decode(), flush=True)


def heard(line: str) -> Outcome | None:
    """What a child said in a line; `None` where the line is something else or was cut off."""
    try:
        return msgspec.json.decode(line, type=Outcome)
    except msgspec.MsgspecError:
        return None


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip() if lines else 'no reason given'}"[:300]
