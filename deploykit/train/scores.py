"""What epochs are chosen by, and how it is said. Standard library only."""

from __future__ import annotations

ACCURACY, LOSS = "accuracy", "loss"


def score_text(score: float, metric: str) -> str:
    """A score as users read it: "accuracy 92.10 %", or "loss 0.0312".

    Args:
        score: the share of right answers, 0 to 1, or a loss with its sign turned.
        metric: "accuracy" or "loss".
    """
    return f"{metric} {100 * score:.2f} %" if metric == ACCURACY else f"{metric} {-score:.4g}"
