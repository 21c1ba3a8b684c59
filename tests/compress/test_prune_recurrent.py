"""Recurrent layers, shared weights, inputs and outputs of every form, dynamic sizes, locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from tests.compress.conftest import Prune

SERIES = "x=N[1..8]x7x6"
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.parametrize("layer", GATES)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_hidden_units_go_from_every_gate(
    prune: Prune, layer: type[nn.LSTM], layers: int, both: bool
) -> None:
    width = 16 if both else 8

    done = prune(
        lambda m, x: m.out(m.cells(m.stem(x))[0][:, -1]),
        SERIES,
        stem=nn.Linear(6, 10),
        cells=layer(10, 8, layers, batch_first=True, bidirectional=both),
        out=nn.Linear(width, 5),
    )

    assert done.widths["stem.weight"] == (5, 6)
    assert done.widths["cells.weight_ih_l0"] == (4 * GATES[layer], 5)
    assert done.widths[f"cells.weight_hh_l{layers - 1}"] == (4 * GATES[layer], 4)
    assert done.widths["out.weight"] == (5, width // 2)
    assert set(done.marks.values()) == {"exact"}
    if layers == 2:
        assert done.widths["cells.weight_ih_l1"] == (4 * GATES[layer], width // 2)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda m, x: m.out(m.cells(m.stem(x))[1][0][-1]), id="last state"),
        pytest.param(lambda m, x: m.out(m.cells(m.stem(x))[0].mean(1)), id="mean of outputs"),
    ],
)
def test_states_and_outputs(prune: Prune, run: Any) -> None:
    done = prune(run, SERIES, stem=nn.Linear(6, 10), cells=nn.LSTM(10, 8, bias=False,
                 batch_first=True), out=nn.Linear(8, 5))  # fmt: skip

    assert done.widths["cells.weight_hh_l0"] == (16, 4)


def test_a_first_state_that_is_computed_goes_along(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.cells(m.stem(x), m.state(x[:, 0])[None])[0][:, -1]),
        SERIES,
        stem=nn.Linear(6, 10),
        state=nn.Linear(6, 8),
        cells=nn.GRU(10, 8, batch_first=True),
        out=nn.Linear(8, 5),
    )

    assert done.widths["state.weight"] == (4, 6)


def test_a_first_state_that_is_given_keeps_its_shape(prune: Prune) -> None:
    done = prune(
        lambda m, x, state: m.out(m.cells(m.stem(x), state)[0][:, -1]),
        SERIES,
        "state=1xNx8",
        stem=nn.Linear(6, 10),
        cells=nn.GRU(10, 8, batch_first=True),
        out=nn.Linear(8, 5),
    )

    assert done.widths["cells.weight_hh_l0"] == (24, 8)
    assert done.widths["stem.weight"] == (5, 6)
    assert "fixed size" in done.locks["cells"]


def test_cells(prune: Prune) -> None:
    def run(m: Any, x: Tensor) -> Any:
        hidden, cell = m.cell(m.stem(x[:, 0]))
        hidden, cell = m.cell(m.stem(x[:, 1]), (hidden, cell))
        return m.out(m.other(hidden) + cell)

    done = prune(run, SERIES, stem=nn.Linear(6, 10), cell=nn.LSTMCell(10, 8),
                 other=nn.GRUCell(8, 8), out=nn.Linear(8, 5))  # fmt: skip

    assert done.widths["cell.weight_hh"] == (16, 4)
    assert done.widths["other.weight_ih"] == (12, 4)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own
def test_a_projection_locks_by_name(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.cells(m.stem(x))[0][:, -1]),
        SERIES,
        stem=nn.Linear(6, 10),
        cells=nn.LSTM(10, 8, proj_size=4, batch_first=True),
        out=nn.Linear(4, 5),
    )

    assert "no pruning rule for aten.lstm" in done.locks["cells"]
    assert done.widths["stem.weight"] == (10, 6)


def test_embeddings(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(m.words(x) + m.places(torch.arange(5))),
        "x=N[1..8]x5:int64",
        words=nn.Embedding(50, 24, padding_idx=0),
        places=nn.Embedding(5, 24),
        out=nn.Linear(24, 3),
    )

    assert done.widths["words.weight"] == (50, 12)
    assert done.widths["places.weight"] == (5, 12)


def test_an_embedding_that_is_also_the_classifier(prune: Prune) -> None:
    done = prune(
        lambda m, x: functional.linear(m.mid(m.words(x)), m.words.weight),
        "x=N[1..8]x5:int64",
        words=nn.Embedding(50, 24),
        mid=nn.Linear(24, 24),
    )

    assert done.widths["words.weight"] == (50, 12)
    assert done.widths["mid.weight"] == (12, 12)


def test_a_transform_over_positions_lets_channels_pass(prune: Prune) -> None:
    done = prune(
        lambda m, x: m.out(torch.fft.rfft(m.stem(x), dim=1).abs().mean(1)),
        SERIES,
        stem=nn.Linear(6, 8),
        out=nn.Linear(8, 5),
    )

    assert done.widths["stem.weight"] == (4, 6)
