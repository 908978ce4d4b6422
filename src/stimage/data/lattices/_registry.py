from __future__ import annotations

from stimage.data.lattices._bins import Bins
from stimage.data.lattices._hex import Hex
from stimage.data.lattices._lattice import Lattice
from stimage.data.lattices._rank import Rank
from stimage.data.lattices._square import Square

LATTICES: dict[str, Lattice] = {
    "hex": Hex(),
    "square": Square(),
    "rank": Rank(),
    "bins": Bins(),
}
"""Layouts of a raster by name. A new one is a file with a class like :class:`Lattice` and a line here."""


def lattice_of(layout: str) -> Lattice:
    """The lattice of a layout; raise ``ValueError`` for one that is not known."""
    if layout not in LATTICES:
        raise ValueError(
            f"The layout {layout!r:.50} is not known, only {', '.join(LATTICES)}: import the package that adds it to "
            "`stimage.data.LATTICES`, or run `stimage.pp.compact_grid` again."
        )
    return LATTICES[layout]
