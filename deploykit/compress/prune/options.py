"""The options of pruning. Standard library only: recipes and help read them."""

from __future__ import annotations

from dataclasses import dataclass

from deploykit.compress.prune.structure import Exactness
from deploykit.core.errors import BadInputError, nearest

COUNTED = ("parameters", "macs", "channels")
CRITERIA = ("l1", "l2", "bn-scale", "taylor", "fisher", "activation", "random")
NEED_LABELS = ("taylor", "fisher")
NEED_DATA = (*NEED_LABELS, "activation")
BLOCK_CRITERIA = ("magnitude", "influence", "output", "loss")
SCOPES = ("global", "layer", "isomorphic")
HEADS = ("within", "whole")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """How much goes, which, and how; the keys of the recipe's stage "prune".

    Attributes:
        ratio: share of what `of` counts that shall go, above 0 and below 1. As little more goes
            as whole channels and the alignment allow.
        of: "macs" (multiply-accumulates, the nearest to time that needs no measurement),
            "parameters" (the nearest to the file's size), both of the whole network; or
            "channels", of those groups that may be cut.
        criterion: how important a channel is. From weights alone: "l1", "l2" (Li et al., ICLR
            2017, section 3.1; over the whole group: Fang et al., CVPR 2023, section 3.3),
            "bn-scale" (Liu et al., ICCV 2017, section 3). From data: "taylor" (Molchanov et
            al., ICLR 2017, section 2.2), "fisher" (Theis et al., 2018, section 2.1; over the
            group: Liu et al., ICML 2021, section 3), "activation" (mean magnitude; Molchanov
            et al., ICLR 2017, section 2.2). "random" is what the others must beat. "l1" is
            the default: of those without data it kept most at half the MACs of
            models/fashion_resnet after equal short training, and as much as "l2" at a quarter.
        scope: which channels compete. "global": all; "layer": each group loses the same share;
            "isomorphic": groups of the same structure compete, and each structure loses the
            same share (Fang et al., ECCV 2024, section 3).
        exclude: patterns of layers whose outputs stay whole, such as "layer1.*" or "stem".
        align: numbers of kept channels are multiples of it; "1" for any number, "auto" for what
            the target was measured to like.
        heads: "within": every attention head gets narrower; "whole": heads go.
        exactness: the least exact groups that are cut: "exact", "renormalised" or "approximate".
        keep_class: cut only what the user's own module class can express.
        depth: residual blocks that go before channels are cut: 0 for none, a whole number of
            blocks, or, below 1, a share of what `of` counts ("channels" counts as "macs" here).
        depth_by: how much a block is needed. From weights alone: "magnitude" (of the factors its
            branch ends with). From data: "influence" (Men et al., ShortGPT, 2024, section 3.1),
            "output" (how far the output moves without it), "loss" (how much the loss grows
            without it; Song et al., SLEB, ICML 2024, section 3.2). "auto" takes "loss" where
            there is data to train on, else "magnitude".
        max_ratio: the largest share of one group's channels that may go. A layer that is cut to
            a sliver cuts the signal (Tanaka et al., NeurIPS 2020, section 4: layer collapse).
        samples: of the data, that criteria look at which need data.
        seed: of the choice of those samples, and of "random".
    """

    ratio: float = 0.5
    of: str = "macs"
    criterion: str = "l1"
    scope: str = "global"
    exclude: tuple[str, ...] = ()
    align: str = AUTO
    heads: str = "within"
    exactness: str = "approximate"
    keep_class: bool = False
    depth: float = 0
    depth_by: str = AUTO
    max_ratio: float = 0.9
    samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be pruned with."""
        for name in ("ratio", "max_ratio"):
            value = getattr(self, name)
            if not 0 < value < 1:
                percent = f"; for {value:g} % write {value / 100:g}" if 1 < value < 100 else ""
                raise BadInputError(f"{name} must be above 0 and below 1, not {value:g}{percent}")
        choices = {
            "of": COUNTED,
            "criterion": CRITERIA,
            "scope": SCOPES,
            "heads": HEADS,
            "depth_by": (AUTO, *BLOCK_CRITERIA),
            "exactness": tuple(level.value for level in Exactness),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"{name} {value!r} is unknown{nearest(str(value), known)}")
        if self.depth < 0 or (self.depth >= 1 and self.depth != int(self.depth)):
            raise BadInputError(
                f"depth must be a whole number of blocks, or a share of the network below 1, not "
                f"{self.depth:g}"
            )
        if self.align != AUTO and not (self.align.isdecimal() and int(self.align) >= 1):
            raise BadInputError(
                f'align must be "auto" or a whole number from 1, not {self.align!r}; write it '
                "like auto or 8"
            )
        if not all(pattern.strip() for pattern in self.exclude):
            raise BadInputError('exclude has an empty pattern; name layers like "layer1.*"')
        if self.samples < 1:
            raise BadInputError(f"samples must be 1 or more, not {self.samples}")
        if self.seed < 0:
            raise BadInputError(f"seed must be 0 or more, not {self.seed}")

    @property
    def step(self) -> int | None:
        """The alignment as a number; `None` where it is to be measured."""
        return None if self.align == AUTO else int(self.align)

    @property
    def least_exact(self) -> Exactness:
        """The least exact groups that are cut."""
        return Exactness(self.exactness)
