"""When a sample leaves at an exit: what the exit's outputs say of how sure it is. NumPy only.

| rule | what is compared | it leaves |
| --- | --- | --- |
| confidence | the largest probability, 1/classes to 1 | at the threshold or above |
| margin | the largest less the second largest, 0 to 1 | at the threshold or above |
| entropy | -sum p ln p / ln classes, 0 to 1 | at the threshold or below |
| patience | exits in a row, this one too, that agree | at the threshold or above |

Confidence is MSDNet's (Huang et al., 2018), entropy BranchyNet's (Teerapittayanon et al., 2016, in
nats there), patience PABEE's (Zhou et al., 2020).

Probabilities are those of softmax(logits / temperature), the temperature being the exit's own (Guo
et al., 2017, "On Calibration of Modern Neural Networks", section 4.2).
"""

from __future__ import annotations

from math import exp, fsum, isfinite, log
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats: TypeAlias = NDArray[np.floating]
Bools: TypeAlias = NDArray[np.bool_]

CONFIDENCE, MARGIN, ENTROPY, PATIENCE = "confidence", "margin", "entropy", "patience"
RULES = (CONFIDENCE, MARGIN, ENTROPY, PATIENCE)
_FEWEST_AGREEING = 1


def check_threshold(rule: str, threshold: float) -> None:
    """Refuse a rule that there is not, and a threshold that it cannot have.

    Raises:
        BadInputError: with the range.
    """
    if rule not in RULES:
        raise BadInputError(f"there is no exit rule {rule!r}{nearest(rule, RULES)}")
    if rule == PATIENCE:
        if threshold < _FEWEST_AGREEING or threshold != int(threshold):
            raise BadInputError(
                f"a threshold of patience is a whole number of exits that agree, {_FEWEST_AGREEING}"
                f" or more, not {threshold:g}"
            )
        return
    # Above 1 no sample ever is as sure, below 0 every one is: 1 and 0 say that, and others are
    # percentages or typing mistakes.
    if not (isfinite(threshold) and 0 <= threshold <= 1):
        raise BadInputError(f"a threshold of {rule} is from 0 to 1, not {threshold:g}")


def probabilities(logits: Floats, temperature: float = 1.0) -> Floats:
    """Softmax over the last dimension.

    Args:
        logits: [N, classes].
        temperature: above 0; more than 1 makes them less sure.
    """
    scaled = logits / np.asarray(temperature, dtype=logits.dtype)
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def signal(rule: str, logits: Floats, temperature: float = 1.0) -> Floats:
    """What a rule compares with its threshold: one number a sample.

    Args:
        rule: not patience, which looks at several exits.
        logits: [N, classes] of one exit.
        temperature: of that exit.
    """
    shares = probabilities(logits, temperature)
    if rule == CONFIDENCE:
        highest: Floats = shares.max(axis=-1)
        return highest
    if rule == MARGIN:
        second, first = np.partition(shares, -2, axis=-1)[..., -2:].T
        apart: Floats = first - second
        return apart
    least = np.finfo(shares.dtype).tiny  # 0 ln 0 is 0
    nats: Floats = -(shares * np.log(np.maximum(shares, least))).sum(axis=-1)
    return nats / nats.dtype.type(log(shares.shape[-1]))


def agreeing(logits: Sequence[Floats]) -> NDArray[np.int64]:
    """How many exits in a row, up to the last of these, give the class that it gives: [N].

    Args:
        logits: [N, classes] of each exit so far, in order.
    """
    classes = [one.argmax(axis=-1) for one in logits]
    count = np.ones(len(classes[-1]), np.int64)
    still = np.ones(len(count), np.bool_)
    for earlier in reversed(classes[:-1]):
        still = still & (earlier == classes[-1])
        count += still
    return count


def leaves(
    rule: str, threshold: float, logits: Sequence[Floats], temperature: float = 1.0
) -> Bools:
    """Which samples leave at the last of these exits: [N].

    Args:
        rule: one of `RULES`.
        threshold: of this exit.
        logits: [N, classes] of each exit so far; all but patience look at the last one only.
        temperature: of this exit.
    """
    if rule == PATIENCE:
        return agreeing(logits) >= threshold
    # In float64, as thresholds are written: what leaves does not hang on a rounding.
    found = signal(rule, logits[-1].astype(np.float64), temperature)
    return found <= threshold if rule == ENTROPY else found >= threshold


def leaves_alone(
    rule: str, threshold: float, logits: Sequence[Sequence[float]], temperature: float = 1.0
) -> bool:
    """As `leaves`, of one sample, without NumPy: its calls take longer than ten numbers do.

    Args:
        rule: one of `RULES`.
        threshold: of this exit.
        logits: [classes] of each exit so far; all but patience look at the last one only.
        temperature: of this exit.
    """
    here = logits[-1]
    if rule == PATIENCE:
        mine, count = _place(here), 1
        for earlier in reversed(logits[:-1]):
            if _place(earlier) != mine:
                break
            count += 1
        return count >= threshold
    high = max(here)
    powers = [exp((value - high) / temperature) for value in here]
    total = fsum(powers)
    if rule == CONFIDENCE:
        return 1 / total >= threshold
    if rule == MARGIN:
        second = sorted(powers)[-2]
        return (1 - second) / total >= threshold
    nats = -fsum(p / total * log(p / total) for p in powers if p)
    return nats / log(len(here)) <= threshold


def _place(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
