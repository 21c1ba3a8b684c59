"""The picture of a pruning: channels of each group before, and how many of them are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.core.extras import extra
from deploykit.core.records import writing

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.flow.prune.record import Pruning

_INCH_PER_GROUP = 0.2
_LEAST_INCHES = 2.0
_WIDTH_INCHES = 8.0
_WHOLE, _KEPT, _REFUSED = "#d0d7de", "#1f6feb", "#8c959f"


def draw(pruning: Pruning, path: Path) -> None:
    """Write the picture, as SVG or PNG by the file's name. Deterministic: no date, no random ids.

    Args:
        pruning: what to show; groups without channels to cut are grey.
        path: of the file.

    Raises:
        MissingExtraError: matplotlib is not installed.
        EnvironmentFailedError: the file cannot be written.
    """
    with extra("report"):
        import matplotlib as mpl
        from matplotlib.figure import Figure

    rows = pruning.groups
    height = max(_LEAST_INCHES, _INCH_PER_GROUP * len(rows) + 1)
    with mpl.rc_context({"svg.hashsalt": "deploykit", "font.size": 8}):
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh(places, [row.channels for row in rows], color=_WHOLE, label="before")
        colours = [_REFUSED if row.refused else _KEPT for row in rows]
        axes.barh(places, [row.kept for row in rows], color=colours, label="kept")
        axes.set_yticks(list(places), [row.name for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("channels (blue: kept, light: cut, grey: may not be cut)")
        axes.set_title(f"cut to {pruning.aim}")
        kind = path.suffix.removeprefix(".")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with writing(path) as file:
            figure.savefig(file, format=kind, metadata=metadata)
