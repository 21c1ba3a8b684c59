"""The options of a training run. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.core.errors import BadInputError, nearest

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("one-cycle", "cosine")
PRECISIONS = ("float32", "bfloat16")
LOSSES = ("cross-entropy", "tokens", "binary", "mse", "l1", "huber")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a network is trained; the table [train] of a recipe.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples a step, over all processes and parts. The last samples of an epoch that
            do not fill a batch wait for the next epoch, which is shuffled anew.
        accumulate: parts that a batch is calculated in, one after the other, for devices whose
            memory the whole does not fit; only batch normalisation sees the difference.
        optimizer: "sgd" with Nesterov's momentum, or "adamw".
        learning_rate: the highest that is reached.
        momentum: of SGD, and the first beta of AdamW.
        weight_decay: of weights; biases and normalisation layers are left alone.
        clip_norm: gradients with a longer norm over all weights are cut to it; 0: never
            (Pascanu, Mikolov and Bengio, ICML 2013, section 3.2).
        loss: of each output: "cross-entropy", "tokens", "binary", "mse", "l1", "huber", or one
            `module:callable`; nothing: as the labels are.
        loss_weights: of several outputs' losses; nothing: 1 each.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1
            (Szegedy et al., CVPR 2016, section 7).
        schedule: "one-cycle": up and down in straight lines (Smith and Topin, 2018,
            arXiv:1708.07120); "cosine": up in a straight line, then half a cosine down
            (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5, one period).
        warmup: share of all steps in which the rate goes up, 0 to below 1.
        crop: images are shifted by up to so many pixels each way, the border filled with black.
        flip: images are mirrored left to right, half of them.
        zoom: windows of this share of an image's area or more, of any place, are taken as the
            image (Szegedy et al., CVPR 2015, section 6); 0: never.
        jitter: brightness, contrast and saturation are changed by up to this share each.
        erase: share of the images in which a rectangle is blackened (Zhong et al., AAAI 2020,
            arXiv:1708.04896).
        mixup: the alpha of Zhang et al. (ICLR 2018, arXiv:1710.09412): pairs of samples are mixed
            by a share drawn from Beta(alpha, alpha); 0: never.
        cutmix: likewise, with a rectangle of one in the other (Yun et al., ICCV 2019,
            arXiv:1905.04899). With both, each batch is mixed in one way or the other.
        average: the share that the mean of all steps' weights keeps at each, 0 to below 1, such as
            0.999; judged and kept are these means, the exponential moving average (Polyak and
            Juditsky, 1992). 0: the weights themselves.
        precision: "float32", or "bfloat16" for mixed precision; weights are float32 in both.
            (bfloat16 has float32's range, so it needs no scaling of the loss, as float16 does.)
        seed: of the order of the samples, the augmentation and dropout.
        patience: training stops after so many epochs without a better validation; 0: never. The
            schedule is laid out for all `epochs` all the same.
        count_start: the weights that training starts from are judged too and are a candidate for
            the best: fine-tuning that never gets better returns what it was given.
        workers: processes that read data ahead; 0: it is read between the steps. Data of up to
            1 GiB is kept in memory and needs none.
    """

    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    loss: tuple[str, ...] = ()
    loss_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    schedule: str = "one-cycle"
    warmup: float = 0.2
    crop: int = 0
    flip: bool = False
    zoom: float = 0.0
    jitter: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    average: float = 0.0
    precision: str = "float32"
    seed: int = 0
    patience: int = 0
    count_start: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("crop", "seed", "weight_decay", "patience", "clip_norm", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise BadInputError(f"learning_rate must be above 0, not {self.learning_rate}")
        for name in ("momentum", "label_smoothing", "warmup", "zoom", "jitter", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInputError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if not 0 <= self.erase <= 1:
            raise BadInputError(f"erase must be from 0 to 1, not {self.erase}")
        if self.workers < 0:
            raise BadInputError(f"workers must be 0 or more, not {self.workers}")
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"{name} {value!r} is unknown{nearest(str(value), known)}")
        self._check_losses()

    def _check_losses(self) -> None:
        for name in self.loss:
            if ":" not in name and name not in LOSSES:
                raise BadInputError(f"loss {name!r} is unknown{nearest(name, LOSSES)}")
            if ":" in name and len(self.loss) > 1:
                raise BadInputError(
                    f"loss {name} takes all outputs at once: it stands alone, not beside "
                    f"{len(self.loss) - 1} others"
                )
        if self.loss_weights and len(self.loss_weights) != len(self.loss):
            raise BadInputError(
                f"loss_weights has {len(self.loss_weights)} numbers and loss {len(self.loss)} "
                "names: give one for each"
            )
        for weight in self.loss_weights:
            if not 0 <= weight < float("inf"):
                raise BadInputError(f"loss_weights must be 0 or more, not {weight}")
