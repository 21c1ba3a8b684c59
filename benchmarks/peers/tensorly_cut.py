"""`python -m benchmarks.peers.tensorly_cut DATA`: TensorLy's factorizations of the same layers.

Each layer that `compress separable` splits is put through CP (Lebedev et al., ICLR 2015,
arXiv:1412.6553) and Tucker-2 (Kim et al., ICLR 2016, arXiv:1511.06530) at the largest rank whose
factors have no more weights than the separable pair; then the network is judged as it is, without
training. Where all factors are computed at the output's places, weights are MACs. They know kernels
alone, as the nearest separable pair does, which is judged beside them.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import TYPE_CHECKING

import msgspec

from benchmarks import pinned
from benchmarks.packages import BENCH, ROOT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deploykit.load.data import Data

FOLDER = BENCH / "tensorly"
PINS = ROOT / "benchmarks" / "peers" / "tensorly.txt"
_NETWORK = ROOT / "models" / "fashion_resnet"
_AT_ONCE = 250
_ITERATIONS = 30


def install() -> None:
    """Fill the folder, where it is not ready; ends the program with one line where pip fails."""
    pinned.install(PINS, FOLDER, ROOT, "separable networks")


def cp(weight: Tensor, most: int) -> Tensor:
    """A kernel [O, I, k, k] as R products of four vectors with at most so many weights."""
    import tensorly
    from tensorly.decomposition import parafac

    rank = max(1, most // sum(weight.shape))
    found = parafac(weight, rank=rank, n_iter_max=_ITERATIONS, init="random", random_state=0)
    made: Tensor = tensorly.cp_to_tensor(found)
    return made


def tucker(weight: Tensor, most: int) -> Tensor:
    """A kernel between two changes of channels, both to r, with at most so many weights."""
    from tensorly.decomposition import partial_tucker
    from tensorly.tenalg import multi_mode_dot

    outputs, inputs = weight.shape[:2]
    places = weight[0, 0].numel()
    ranks = range(1, min(outputs, inputs) + 1)
    rank = max(r for r in ranks if r == 1 or r * (outputs + inputs) + places * r * r <= most)
    (core, factors), _ = partial_tucker(
        weight, rank=[rank, rank], modes=[0, 1], n_iter_max=_ITERATIONS
    )
    made: Tensor = multi_mode_dot(core, factors, modes=[0, 1])
    return made


def judged(data: str) -> dict[str, float]:
    """The share of right answers of each, 0 to 1, by the name of the way."""
    import tensorly
    import torch

    from deploykit.compress.separable.options import SeparableOptions
    from deploykit.flow.rebuild import load_model, separated
    from deploykit.flow.separable.layers import Layers
    from deploykit.load.datasets import open_data
    from deploykit.load.sources import Source

    tensorly.set_backend("pytorch")
    model, samples = load_model(Source(str(_NETWORK))), open_data(data)
    layers = Layers.of(model, SeparableOptions())
    found = {"nearest over weights": _right(separated(model, layers.plan).module, samples)}
    for way in (cp, tucker):
        made = deepcopy(model.module)
        for choice in layers.choices:
            if not choice.why:
                weight = made.get_parameter(f"{choice.name}.weight")
                with torch.no_grad():
                    weight.copy_(way(weight.detach(), choice.split))
        found[f"TensorLy's {'CP' if way is cp else 'Tucker-2'}"] = _right(made, samples)
    return found


def _right(module: nn.Module, data: Data) -> float:
    import torch

    from deploykit.train.samples import InOrder, Samples, loader

    module.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in loader(Samples(data), InOrder(len(data), _AT_ONCE)):
            right += int((module(images).argmax(dim=1) == labels).sum())
    return right / len(data)


def main(data: str) -> None:
    """Print them as one line of JSON."""
    sys.path.append(str(FOLDER))
    print(msgspec.json.encode(judged(data)).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
