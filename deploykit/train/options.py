"""The options of a training run. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("one-cycle", "cosine")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a network is trained; the table [train] of a recipe.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples a step. The last samples of an epoch that do not fill a batch wait
            for the next epoch, which is shuffled anew.
        optimizer: "sgd" with Nesterov's momentum, or "adamw".
        learning_rate: the highest that is reached.
        momentum: of SGD, and the first beta of AdamW.
        weight_decay: of weights; biases and normalisation layers are left alone.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1
            (Szegedy et al., CVPR 2016, section 7).
        schedule: "one-cycle": up and down in straight lines (Smith and Topin, 2018,
            arXiv:1708.07120); "cosine": up in a straight line, then half a cosine down
            (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5, one period).
        warmup: share of all steps in which the rate goes up, 0 to below 1.
        crop: images are shifted by up to so many pixels each way, the border filled with black.
        flip: images are mirrored left to right, half of them.
        precision: "float32", or "bfloat16" for mixed precision; weights are float32 in both.
            (bfloat16 has float32's range, so it needs no scaling of the loss, as float16 does.)
        seed: of the order of the samples, the augmentation and dropout.
        patience: training stops after so many epochs without a better accuracy on the validation
            data; 0: never. The schedule is laid out for all `epochs` all the same.
        count_start: the weights that training starts from are judged too and are a candidate for
            the best: fine-tuning that never gets better returns what it was given.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    schedule: str = "one-cycle"
    warmup: float = 0.2
    crop: int = 0
    flip: bool = False
    precision: str = "float32"
    seed: int = 0
    patience: int = 0
    count_start: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("crop", "seed", "weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise BadInputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise BadInputError(f"learning_rate must be above 0, not {self.learning_rate}")
        for name in ("momentum", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInputError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"{name} {value!r} is unknown{nearest(str(value), known)}")
