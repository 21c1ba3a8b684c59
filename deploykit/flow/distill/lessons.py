"""What a student learns from: labelled data, unlabelled data, or both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.compress.distill.options import DECOUPLED
from deploykit.core.errors import BadInputError
from deploykit.flow.accuracy import are_classes, labels_type
from deploykit.load.datasets import open_data
from deploykit.load.joined import Joined, Unlabelled

if TYPE_CHECKING:
    from deploykit.compress.distill.options import DistillOptions
    from deploykit.flow.distill.request import DistillRequest
    from deploykit.flow.splits import Splits
    from deploykit.load.data import Data
    from deploykit.load.recipe import Recipe


def lessons(
    request: DistillRequest, options: DistillOptions, recipe: Recipe | None, splits: Splits
) -> Data:
    """The data to learn from; samples without labels have negative class numbers.

    Raises:
        BadInputError: there is none, or none to judge by, or it lacks labels that are needed.
    """
    labelled = _labelled(request, recipe)
    if labelled is None and not request.unlabelled:
        raise BadInputError("there is nothing to learn from; add --train DATA")
    if splits.val is None:
        raise BadInputError("the best epoch is chosen on data of its own; add --val DATA")
    for data in (labelled, splits.val):
        if data is not None and labels_type(data) is None:
            mend = "--unlabelled takes it so" if data is labelled else "name other data with --val"
            raise BadInputError(f"{data.name} has no labels; {mend}")
    if not request.unlabelled:
        assert labelled is not None, "refused above"
        return labelled
    return _with_unlabelled(labelled, open_data(request.unlabelled), splits.val, options)


def _labelled(request: DistillRequest, recipe: Recipe | None) -> Data | None:
    if request.train:
        return open_data(request.train)
    if recipe is not None and recipe.data.train:
        return open_data(recipe.data.train, recipe.folder)
    return None


def _with_unlabelled(labelled: Data | None, more: Data, val: Data, options: DistillOptions) -> Data:
    like = val if labelled is None else labelled
    if not are_classes(labels_type(like)):
        raise BadInputError(
            f"{like.name} has labels of type {labels_type(like)}, and samples without labels "
            "stand beside class numbers only: leave out --unlabelled"
        )
    if labelled is None and options.method == DECOUPLED:
        raise BadInputError(
            f"method {DECOUPLED} needs labels, and {more.name} is taken without; add --train DATA"
        )
    labels = like.batch([0]).labels
    assert labels is not None, "looked at above"
    without = Unlabelled(more, labels.shape[1:])
    return without if labelled is None else Joined(labelled, without)
