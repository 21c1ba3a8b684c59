"""Union-find over many labels at a time, against the slow and obvious one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from deploykit.compress.prune.analysis.labels import NEVER, Labels
from deploykit.compress.prune.analysis.trace import Trace, Value, merged

_PAIRS = some.lists(some.tuples(some.integers(1, 30), some.integers(1, 30)), max_size=40)


@given(some.lists(_PAIRS, max_size=5))
def test_united_labels_are_one_set(rounds: list[list[tuple[int, int]]]) -> None:
    labels = Labels()
    labels.fresh(30)
    sets = {label: {label} for label in range(31)}
    for pairs in rounds:
        if pairs:
            left, right = np.array(pairs).T
            labels.unite(left, right)
        for one, other in pairs:
            both = sets[one] | sets[other]
            for label in both:
                sets[label] = both

    roots = labels.roots()

    for label in range(31):
        assert int(roots[label]) == min(sets[label])


def test_fresh_labels_are_new_beyond_the_first_size() -> None:
    labels = Labels()

    many = np.concatenate([labels.fresh(3000), labels.fresh(3000), labels.fresh(9000)])

    assert len(np.unique(many)) == 15000
    assert NEVER not in many
    assert (labels.find(many) == many).all()


def test_what_meets_a_fixed_size_is_locked_with_its_place() -> None:
    trace = Trace(where="add in block")
    axis = (trace.labels.fresh(4),)

    assert trace.unite(axis, ()) == ()

    (mark,) = trace.locks
    assert mark.labels is axis[0]
    assert mark.why == "meets a dimension of fixed size (add in block)"


def test_what_meets_an_index_that_stays_is_locked() -> None:
    trace = Trace(where="add")
    one, other = trace.labels.fresh(4), trace.labels.fresh(4)
    one[1] = NEVER

    trace.unite((one,), (other,))

    assert [mark.labels.tolist() for mark in trace.locks] == [[other[1]]]
    assert trace.labels.find(other[[0, 2, 3]]).tolist() == one[[0, 2, 3]].tolist()
    assert trace.labels.find(other[[1]]).tolist() == [other[1]]


def test_copies_give_way_to_what_they_meet() -> None:
    """A dimension of (copies, channels) meets one of channels alone."""
    trace = Trace()
    channels, alone = trace.labels.fresh(6), trace.labels.fresh(6)
    (copies,) = trace.fresh(6)

    kept = trace.unite((copies, channels), (alone,))

    assert len(kept) == 1
    assert trace.labels.find(alone).tolist() == channels.tolist()
    assert [mark.labels is copies for mark in trace.locks] == [True]


def test_merged_dimensions_repeat_and_tile() -> None:
    rows, columns = np.array([1, 2]), np.array([5, 6, 7])

    first, second = merged([(rows,), (columns,)], [2, 3])

    assert first.tolist() == [1, 1, 1, 2, 2, 2]
    assert second.tolist() == [5, 6, 7, 5, 6, 7]


def test_a_single_channel_that_is_spread_is_locked() -> None:
    trace = Trace(where="mul")
    single, full = (trace.labels.fresh(1),), (trace.labels.fresh(4),)

    axes = trace.broadcast([Value((1,), (single,)), Value((2, 4), ((), full))], (2, 4))

    assert axes == ((), full)
    assert [mark.labels.tolist() for mark in trace.locks] == [single[0].tolist()]
