"""Which groups may be cut: free, exact enough, and not excluded by name."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from deploykit.compress.prune.structure import Exactness, Role
from deploykit.core.errors import BadInputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploykit.compress.prune.structure import Group, Structure

_LADDER = (Exactness.EXACT, Exactness.RENORMALISED, Exactness.APPROXIMATE)


def candidates(
    structure: Structure, exclude: tuple[str, ...] = (), least: Exactness = Exactness.APPROXIMATE
) -> tuple[Group, ...]:
    """The groups that may be cut.

    A pattern names groups, or modules and parameters in them, or anything that these lie in:
    "layer1" is all of layer1. Excluded is what such a layer puts out; its inputs may shrink with
    the layers before it, or no neighbour of an excluded layer could be cut either.

    Args:
        structure: of the network.
        exclude: patterns as in file names: `*`, `?`, `[abc]`.
        least: the least exact groups that are wanted.

    Raises:
        BadInputError: a pattern matches no name, or no group is left.
    """
    _check_patterns(structure, exclude)
    found = tuple(
        group
        for group in structure.free
        if _LADDER.index(group.exactness) <= _LADDER.index(least)
        and not any(_matches(_outputs(group), pattern) for pattern in exclude)
    )
    if not found:
        raise BadInputError(f"nothing can be pruned: {_why_not(structure, least)}")
    return found


def _check_patterns(structure: Structure, exclude: tuple[str, ...]) -> None:
    names = {
        name
        for group in structure.groups
        for name in _with_parents((group.name, *(member.parameter for member in group.members)))
    }
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInputError(f"exclude {pattern!r} matches no layer{nearest(pattern, names)}")


def _outputs(group: Group) -> set[str]:
    """Names of the group and of what writes or scales its channels."""
    own = (member.parameter for member in group.members if member.role is not Role.READS)
    return _with_parents((group.name, *own))


def _with_parents(names: Iterable[str]) -> set[str]:
    """The names, and those of the modules that they lie in."""
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return found


def _matches(names: set[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _why_not(structure: Structure, least: Exactness) -> str:
    if not structure.groups:
        return "the network has no layer with channels of its own"
    if not structure.free:
        reasons = Counter(group.locked for group in structure.groups)
        ((reason, count),) = reasons.most_common(1)
        first = next(group.name for group in structure.groups if group.locked == reason)
        others = f", and {count - 1} more likewise" if count > 1 else ""
        return f"all {len(structure.groups)} groups are locked: {first} {reason}{others}"
    return (
        f"none of the {len(structure.free)} groups that could be cut is left by exclude and "
        f'exactness = "{least.value}"'
    )
