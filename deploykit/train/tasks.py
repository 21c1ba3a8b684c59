"""What the labels ask of a network: the losses of its outputs, and how good they are.

A network has one output or several (a tuple, a list or a dictionary of tensors). Each has a loss:

| loss | output | labels |
| --- | --- | --- |
| "cross-entropy" | [n, classes] or [n, classes, ...] | whole numbers [n] or [n, ...] |
| "tokens" | [n, length, classes] | whole numbers [n, length] |
| "binary" | [n, ...] | 0 or 1 (or between), of the same shape |
| "mse", "l1", "huber" | [n, ...] | numbers of the same shape |
| `module:callable` | whatever it takes | likewise |

Negative class numbers are no labels: such an item (padding, a sample that nobody labelled) counts
for nothing. Labels of shape [n] are for all outputs alike; otherwise the columns of the labels go
to the outputs in their order, as many to each as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

from deploykit.core.errors import BadInputError
from deploykit.train.objective import Term
from deploykit.train.options import LOSSES
from deploykit.train.scores import ACCURACY, LOSS

if TYPE_CHECKING:
    from deploykit.train.options import TrainOptions

Own: TypeAlias = Callable[[object, Tensor], object]
"""A user's loss: called with the network's outputs and the labels; gives the mean, or means by
name."""

NOTHING = -100
"""The class number of what has no label, as in `torch.nn.CrossEntropyLoss`."""


@dataclass(frozen=True, slots=True)
class Task:
    """Losses of outputs, each with its weight.

    Attributes:
        losses: one for each output, as in the module's table.
        weights: of these losses; multi-task learning balances its heads by them.
        label_smoothing: of cross-entropy, 0 to below 1.
        own: a user's loss in place of `losses`, or `None`.
    """

    losses: tuple[str, ...] = ("cross-entropy",)
    weights: tuple[float, ...] = (1.0,)
    label_smoothing: float = 0.0
    own: Own | None = None

    @property
    def metric(self) -> str:
        """What epochs are chosen by: the share that is right, or else the loss."""
        one = self.own is None and len(self.losses) == 1
        return ACCURACY if one and self.losses[0] in {"cross-entropy", "tokens"} else LOSS

    def items(self, labels: Tensor) -> int:
        """How many labels there are: those of class numbers that are not negative."""
        return len(labels) if labels.is_floating_point() else int((labels >= 0).sum())

    def terms(self, outputs: object, labels: Tensor, items: float | None = None) -> dict[str, Term]:
        """The losses of one batch by name: "task", or "task NAME" of several outputs.

        Args:
            outputs: what the network gave.
            labels: shape [n] or [n, ...].
            items: what sums over class numbers are divided by; `None`: how many there are.

        Raises:
            BadInputError: they do not fit together.
        """
        if self.own is not None:
            return _named(self.own(outputs, labels))
        found = {}
        for name, output, wanted, loss, weight in self._heads(outputs, labels):
            value = _LOSSES[loss](output, wanted, self.label_smoothing, items)
            found[f"task {name}".rstrip()] = Term(value, weight)
        return found

    def score(self, outputs: object, labels: Tensor) -> tuple[Tensor, int]:
        """How good outputs are: a sum over items, higher is better, and how many items they are.

        Returns:
            The number of right answers, or the loss with its sign turned times the samples.
        """
        if self.metric == ACCURACY:
            ((_, output, wanted, loss, _),) = self._heads(outputs, labels)
            there = wanted >= 0
            hits = (output.argmax(dim=2 if loss == "tokens" else 1) == wanted) & there
            return hits.sum(), int(there.sum())
        terms = self.terms(outputs, labels).values()
        return -sum(len(labels) * term.weight * term.value.double() for term in terms), len(labels)  # type: ignore[return-value]  # a sum of tensors

    def _heads(
        self, outputs: object, labels: Tensor
    ) -> list[tuple[str, Tensor, Tensor, str, float]]:
        named = _outputs(outputs)
        if len(self.losses) == 1:  # the first output counts, as in deployment
            (output, *_), (loss,), (weight,) = named.values(), self.losses, self.weights
            return [("", output, labels, loss, weight)]
        if len(named) > len(self.losses):
            raise BadInputError(
                f"the network gives {len(named)} outputs ({', '.join(named)}) and loss names "
                f"{len(self.losses)}; name one for each, or a single one for the first alone"
            )
        found, first = [], 0
        # Fewer outputs than losses are those of a network without its auxiliary heads.
        for head, loss, weight in zip(named.items(), self.losses, self.weights, strict=False):
            name, output = head
            wanted = labels
            if labels.dim() > 1:
                wanted, first = _columns(name, output, labels, loss, first)
            found.append((name, output, wanted, loss, weight))
        return found


def task_for(options: TrainOptions, labels: Tensor, own: Own | None = None) -> Task:
    """What is learnt, as the options say it or as the labels suggest.

    Args:
        options: `loss` and `loss_weights`; without a loss it is cross-entropy for whole numbers,
            "tokens" for whole numbers of shape [n, length], and "mse" for everything else.
        labels: a few.
        own: the function that `loss` names, or `None`.
    """
    losses = options.loss
    if not losses:
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        losses = (("tokens" if labels.dim() == 2 else "cross-entropy") if whole else "mse",)
    weights = options.loss_weights or (1.0,) * len(losses)
    return Task(losses, weights, options.label_smoothing, own)


def check_classes(logits: object, labels: Tensor) -> None:
    """Refuse outputs that are no logits of classes, and labels that are none of these classes.

    Args:
        logits: what a network gave; they must have the shape [N, classes] or [N, classes, ...].
        labels: they must be whole numbers of shape [N] or [N, ...]; negative ones are ignored.

    Raises:
        BadInputError: what is wrong, with the shape or the value.
    """
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInputError(
            f"training takes a network with an output of shape [N, classes], not {what}"
        )
    if labels.is_floating_point() or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise BadInputError(
            f"outputs of shape {list(logits.shape)} take whole-number labels of shape "
            f"{[*logits.shape[:1], *logits.shape[2:]]}, not "
            f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        )
    high = int(labels.max())
    if high >= logits.shape[1]:
        raise BadInputError(
            f"labels go up to {high} and the network has {logits.shape[1]} classes, 0 to "
            f"{logits.shape[1] - 1}"
        )


def cross_entropy(
    logits: object, labels: Tensor, label_smoothing: float = 0.0, items: float | None = None
) -> Tensor:
    """The loss of classifiers, computed in float32 whatever the network runs in.

    Args:
        logits: shape [N, classes] or [N, classes, ...].
        labels: whole numbers of shape [N] or [N, ...]; negative ones count for nothing.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        items: what the sum is divided by; `None`: the number of labels.

    Raises:
        BadInputError: they do not fit together.
    """
    check_classes(logits, labels)
    assert isinstance(logits, Tensor)  # checked
    labels = labels.long()
    there = labels >= 0
    total = F.cross_entropy(
        logits.float(),
        torch.where(there, labels, NOTHING),
        label_smoothing=label_smoothing,
        ignore_index=NOTHING,
        reduction="sum",
    )
    return total / (max(1, int(there.sum())) if items is None else items)


def _tokens(output: Tensor, labels: Tensor, smoothing: float, items: float | None) -> Tensor:
    if output.dim() != 3:
        raise BadInputError(
            f'loss "tokens" takes outputs of shape [N, length, classes], not {list(output.shape)}'
        )
    return cross_entropy(output.transpose(1, 2), labels, smoothing, items)


def _of_numbers(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> _Loss:
    """A loss between outputs and labels of one shape; [N] stands for [N, 1] as well."""

    def value(output: Tensor, labels: Tensor, _: float, __: float | None) -> Tensor:
        if labels.numel() != output.numel() or len(labels) != len(output):
            raise BadInputError(
                f'loss "{name}" takes outputs and labels of one shape, not {list(output.shape)} '
                f"and {list(labels.shape)}"
            )
        return loss(output.float(), labels.to(output.device, torch.float32).reshape(output.shape))

    return value


_Loss: TypeAlias = Callable[[Tensor, Tensor, float, float | None], Tensor]
_LOSSES: dict[str, _Loss] = {
    "cross-entropy": cross_entropy,
    "tokens": _tokens,
    "binary": _of_numbers("binary", F.binary_cross_entropy_with_logits),
    "mse": _of_numbers("mse", F.mse_loss),
    "l1": _of_numbers("l1", F.l1_loss),
    "huber": _of_numbers("huber", F.smooth_l1_loss),
}
assert tuple(_LOSSES) == LOSSES


def _columns(
    name: str, output: Tensor, labels: Tensor, loss: str, first: int
) -> tuple[Tensor, int]:
    """The columns of the labels that are an output's, and where the next one's begin."""
    classes = loss in {"cross-entropy", "tokens"}
    count = 1 if classes else output[0].numel()
    wanted = labels[:, first : first + count]
    if wanted.shape[1] < count:
        raise BadInputError(
            f"output {name} takes {count} columns of labels from column {first} on, and there are "
            f"{labels.shape[1]} in all"
        )
    return (wanted[:, 0].long() if classes else wanted), first + count


def _outputs(outputs: object) -> dict[str, Tensor]:
    """Tensors by name: those of a dictionary, or numbers in a tuple or list."""
    if isinstance(outputs, Tensor):
        return {"": outputs}
    if isinstance(outputs, Mapping):
        found = {str(name): one for name, one in outputs.items() if isinstance(one, Tensor)}
    elif isinstance(outputs, list | tuple):
        found = {f"{n}": one for n, one in enumerate(outputs) if isinstance(one, Tensor)}
    else:
        found = {}
    if not found:
        raise BadInputError(f"training takes a network that gives tensors, not {type(outputs)}")
    return found


def _named(found: object) -> dict[str, Term]:
    parts = found if isinstance(found, Mapping) else {"": found}
    terms = {}
    for name, part in parts.items():
        if not isinstance(part, Tensor) or part.numel() != 1:
            what = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise BadInputError(
                f"the loss gave {what} for {name or 'the batch'}: it must be one number, the mean"
            )
        terms[f"task {name}".rstrip()] = Term(part.reshape(()))
    return terms
