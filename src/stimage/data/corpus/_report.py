"""What a corpus consists of: a row for each slide, with duplicates and contradictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage.data.slides._slide import Slide

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


_SKETCH = "counts_sketch"
_SKETCH_SIZE = 64
_LEAST_GENES = 8
"""Sites with counts of fewer genes are alike by chance."""
_LEAST_SHARED = 0.5
"""Share of a sketch that two slides must have in common: part of a slide is a duplicate as well."""
_FEWEST_SHARED = 4
_FACTS = ("tissue", "species", "technology", "study")
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def with_sketch(details: Mapping[str, Any], slide: Slide) -> dict[str, Any]:
    """Details of a slide with the sketch of its counts, which later reports read instead of the expression."""
    return dict(details) if _SKETCH in details else {**details, _SKETCH: counts_sketch(slide)}


def details_of(adata: AnnData, slide: str, grid_key: str) -> dict[str, Any]:
    """What the source note and the grid of an AnnData say of a slide, in types of JSON."""
    note = adata.uns.get(_keys.SOURCE)
    known: dict[str, Any] = {}
    if isinstance(note, Mapping):
        known = {fact: str(note[fact]) for fact in (*_FACTS, "format") if note.get(fact)}
        dropped = note.get("dropped")
        if isinstance(dropped, Mapping) and dropped:
            known["dropped"] = {str(reason): int(number) for reason, number in dropped.items()}
    grid = adata.uns[grid_key]
    unit = grid["slides"].get("unit", {}).get(slide)
    scale = grid["summary"]["micrometres_per_unit"].get(slide) if "summary" in grid else None
    if unit is not None:
        known["unit"] = str(unit)
    if scale is not None and np.isfinite(scale):
        known["micrometres_per_unit"] = float(scale)
    return known


def counts_sketch(slide: Slide) -> str:
    """Smallest hashes of the counts of a slide's sites, in ascending order, 16 hexadecimal digits each.

    Counts are those over the genes of the vocabulary, so that names and order of sites do not matter, nor genes beyond them.
    """
    hashes: set[int] = set()
    for sites, block in slide.expression.row_blocks() if hasattr(slide.expression, "row_blocks") else _blocks(slide):
        sizes = np.asarray(slide.library_size)[sites].astype(np.float64)
        lengths = np.diff(block.indptr)
        counts = np.rint(np.expm1(block.data.astype(np.float64)) * np.repeat(sizes, lengths) / slide.target_sum)
        genes = _mixed(block.indices.astype(np.uint64) + np.uint64(1))
        terms = np.concatenate([[np.uint64(0)], np.cumsum(genes * counts.astype(np.uint64), dtype=np.uint64)])
        sums = terms[block.indptr[1:]] - terms[block.indptr[:-1]]
        present = np.concatenate([[0], np.cumsum(counts > 0)])
        enough = present[block.indptr[1:]] - present[block.indptr[:-1]] >= _LEAST_GENES
        hashes.update(np.unique(_mixed(sums[enough]))[:_SKETCH_SIZE].tolist())
        hashes = set(sorted(hashes)[:_SKETCH_SIZE])
    return " ".join(f"{value:016x}" for value in sorted(hashes))


def report(slides: Sequence[Slide], details: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """See :meth:`Corpus.report`."""
    import pandas as pd

    rows = {}
    for slide, known in zip(slides, details, strict=True):
        rows[slide.name] = {
            "donor": slide.donor,
            **{fact: str(known.get(fact, "")) for fact in _FACTS},
            "n_observations": len(slide.observation_index),
            "n_sites": slide.n_sites,
            "n_genes": int(slide.measured.sum()),
            "median_counts": float(np.median(slide.library_size)),
            "layout": slide.layout,
            "unit": known.get("unit", "unknown"),
            "micrometres_per_unit": float(known.get("micrometres_per_unit") or np.nan),
            "dropped": "; ".join(f"{number} {reason}" for reason, number in known.get("dropped", {}).items()),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    same = duplicates(slides, details)
    table["same_counts_as"] = [", ".join(same[name]) for name in table.index]
    table["contradiction"] = ["; ".join(_contradictions(name, table, same[name])) for name in table.index]
    for key in ("format", "path"):
        table[key] = [str(known.get(key, "")) for known in details]
    table.index.name = "slide"
    return table


def duplicates(slides: Sequence[Slide], details: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the slides most of whose sites have the counts of another's, for each slide."""
    sketches = [
        set((known[_SKETCH] if _SKETCH in known else counts_sketch(slide)).split())
        for slide, known in zip(slides, details, strict=True)
    ]
    names = [slide.name for slide in slides]
    holders: dict[str, list[int]] = {}
    for number, sketch in enumerate(sketches):
        for value in sketch:
            holders.setdefault(value, []).append(number)
    shared: dict[tuple[int, int], int] = {}
    for numbers in holders.values():
        for i, one in enumerate(numbers):
            for other in numbers[i + 1 :]:
                shared[one, other] = shared.get((one, other), 0) + 1
    found: dict[str, list[str]] = {name: [] for name in names}
    for (one, other), number in sorted(shared.items()):
        # Of a part of a slide the smallest hashes are only some of the whole's: those below the largest common one count.
        least = min(len(_below(sketches[one], sketches[other])), len(_below(sketches[other], sketches[one])))
        if number >= max(_LEAST_SHARED * least, min(_FEWEST_SHARED, least)):
            found[names[one]].append(names[other])
            found[names[other]].append(names[one])
    return found


def _below(sketch: set[str], other: set[str]) -> set[str]:
    """Hashes of a sketch that would be in another, if that slide had them."""
    largest = max(other)
    return {value for value in sketch if value <= largest} if len(other) >= _SKETCH_SIZE else sketch


def _contradictions(name: str, table: pd.DataFrame, same: Sequence[str]) -> list[str]:
    found = []
    for fact in ("donor", "species", "tissue"):
        value = table.at[name, fact]
        found += [
            f"same counts as {other!r} of {fact} {table.at[other, fact]!r}"
            for other in same
            if value and table.at[other, fact] and table.at[other, fact] != value
        ]
    donor, species = table.at[name, "donor"], table.at[name, "species"]
    if donor and species:
        of_donor = table.loc[
            (table["donor"] == donor) & (table["species"] != "") & (table["species"] != species), "species"
        ]
        if len(of_donor):
            found.append(f"donor {donor!r} is also of {of_donor.iloc[0]!r} ({of_donor.index[0]!r})")
    return found


def _blocks(slide: Slide):
    """Rows of an expression in memory, some at a time."""
    step = 4096
    for start in range(0, slide.n_sites, step):
        rows = slice(start, min(start + step, slide.n_sites))
        yield rows, slide.expression[rows]


def _mixed(values: np.ndarray) -> np.ndarray:
    """Numbers (uint64) whose bits are mixed well (splitmix64, Steele 2014)."""
    first, second, third = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
    with np.errstate(over="ignore"):
        values = values + first
        values = (values ^ (values >> np.uint64(30))) * second
        values = (values ^ (values >> np.uint64(27))) * third
        return values ^ (values >> np.uint64(31))
