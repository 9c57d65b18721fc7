"""How figures look: colours that everybody can tell apart, dashes, markers, fonts. A user's matplotlibrc is ignored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

# Okabe and Ito's colours: people with any kind of colour vision can tell them apart. Their yellow is left out, because
# it can hardly be seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Any: matplotlib's stubs list every key as a literal.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a value with $...$ in it is a text
    "pdf.fonttype": 42,  # TrueType, which journals accept; matplotlib's default is Type 3
    "ps.fonttype": 42,
    "svg.hashsalt": "r1-zero-ablations",
    "svg.fonttype": "path",
    "path.simplify": False,
}
LEAST_SIZE = 7.0  # points: no letter is smaller
# For a figure as wide as a journal's column.
SMALL: Any = {"font.size": 7.5, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7}
GREY = "#444444"
WIDTH = 9.6  # inches
NARROW = 6.0  # inches: below this, smaller letters, and one panel a row in the main figure
CHARACTERS = 118  # of a note, in a line as long as WIDTH


@dataclass(frozen=True)
class TextSizes:
    """The sizes of a figure's texts, in points."""

    title: float
    header: float
    note: float
    wrapped: int
    """How many characters of a note fit in a line."""


def text_sizes(width: float) -> TextSizes:
    """Return the sizes of the texts of a figure that is `width` inches wide."""
    if width < NARROW:
        return TextSizes(9.5, 7.5, 7.0, int(CHARACTERS * width / WIDTH * 1.15))
    return TextSizes(15, 9.5, 8.5, int(CHARACTERS * width / WIDTH))


@dataclass(frozen=True)
class Look:
    """How an arm is drawn, the same in every panel."""

    colour: str
    dashes: tuple[float, tuple[float, ...]]
    marker: str


def look(place: int) -> Look:
    """Return the look of the arm at `place`; the first 280 arms all look different."""
    return Look(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


@contextlib.contextmanager
def styled(small: bool = False) -> Iterator[None]:
    """Have matplotlib draw in this style, and in the former one afterwards; `small`: for a narrow figure."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE | (SMALL if small else {}))
        yield
