"""Whether a representation's model was trained on a slide that it is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import poisson

from stimage.data.slides._spot_sketch import (
    CountSketch,
    coordinate_hashes,
    count_classes,
    gene_hashes,
    name_hashes,
    read_sketch,
    spot_hashes,
)

_SHARED_HASHES = 8
"""Of the 64 in a sketch: pairs of barcode and total count that two slides share by chance are far fewer."""
_BITS = 10.0
"""What the counts of an observation must say, beyond which of the tested ones it is: chance is one in a thousand."""
_CERTAIN_BITS = 25.0
"""What those of a single one must say where no other is found."""
_SILENCE = 0.005
"""How likely it may be, in a part of the very slide, to find no more sketched observations than were found, for a clear no."""


@dataclass(frozen=True)
class EvaluatedSlide:
    """What identifies a slide that is tested.

    Parameters
    ----------
    name, donor
        Name of the slide, and who the tissue is from.
    counts_sha256
        Hash of the counts of its sites.
    names
        Names of its observations.
    counts
        Their counts (observations x genes).
    genes
        Names of the genes.
    coordinates
        Their coordinates (observations x 2), if known.
    """

    name: str
    donor: str
    counts_sha256: str
    names: np.ndarray
    counts: sparse.csr_matrix
    genes: np.ndarray
    coordinates: np.ndarray | None = None

    @cached_property
    def pairs(self) -> set[str]:
        """Hashes of observation name and total count."""
        return spot_hashes(self.names, np.asarray(self.counts.sum(axis=1)).ravel())

    @cached_property
    def columns(self) -> dict[int, int]:
        """Column of each gene by the hash of its name; genes whose names are the same but for case or version are left out."""
        hashes, first, times = np.unique(gene_hashes(self.genes), return_index=True, return_counts=True)
        return dict(zip(hashes[times == 1].tolist(), first[times == 1].tolist(), strict=True))

    @cached_property
    def by_column(self) -> sparse.csc_matrix:
        """The counts, from which genes are read quickly."""
        return sparse.csc_matrix(self.counts)

    @cached_property
    def name_hashes(self) -> np.ndarray:
        """Hashes of the observations' names."""
        return name_hashes(self.names)

    @cached_property
    def coordinate_hashes(self) -> np.ndarray:
        """Hashes of their coordinates."""
        return coordinate_hashes(self.coordinates, np.arange(len(self.names)))


def find_leaks(
    slides: Sequence[EvaluatedSlide], trained_on: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """Which test slides are among the training slides of a manifest, and of which that cannot be told.

    A slide is recognised by its counts (under any name, with any observation names), by its donor, by an eighth or more
    of the training slide's pairs of observation name and total count, and by the counts of single genes in sketched
    observations: also when observations or genes were removed or observations renamed.

    Returns
    -------
    tuple of list of str
        Descriptions of the test slides that were trained on, and of those that may have been.
    """
    found, unsure = [], []
    for slide in slides:
        doubts = []
        for training in trained_on:
            reason, doubt = _compared(slide, training)
            if reason:
                found.append(f"{slide.name!r} ({reason} as {training['name']!r})")
                break
            if doubt:
                doubts.append(f"{training['name']!r}: {doubt}")
        else:
            if doubts:
                more = f" and {len(doubts) - 2} more" if len(doubts) > 2 else ""
                unsure.append(f"{slide.name!r} ({'; '.join(doubts[:2])}{more})")
    return found, unsure


def _compared(slide: EvaluatedSlide, training: Mapping[str, Any]) -> tuple[str, str]:
    """Why a slide is one that was trained on, or why that cannot be told; empty texts where it is another one."""
    if slide.counts_sha256 == training["counts_sha256"]:
        return "same counts", ""
    if slide.donor and slide.donor == training.get("donor", ""):
        return f"same donor {slide.donor!r}", ""
    pairs, sketch = read_sketch(training.get("spot_sketch", ""))
    if pairs and len(pairs & slide.pairs) >= min(_SHARED_HASHES, len(pairs)):
        return "same spots", ""
    if sketch is None:
        return "", "noted without counts of genes, by an older version"
    n_found, most_bits, expected, n_shared = _found_again(slide, sketch)
    if n_found >= 2 or most_bits >= _CERTAIN_BITS:
        return "same counts of genes in the same spots", ""
    same_names = np.isin(sketch.names, slide.name_hashes)
    known = sketch.coordinates > 0
    same_places = known & np.isin(sketch.coordinates, slide.coordinate_hashes)
    if known.any() and (same_names & same_places).mean() >= 0.5 * min(1, len(slide.names) / sketch.n_observations):
        return "", "same names and coordinates, other counts"
    if poisson.cdf(n_found, expected) > _SILENCE:
        return "", f"{n_shared} of {len(sketch.genes)} sketched genes in {len(slide.names)} spots are too few to tell"
    return "", ""


def _found_again(slide: EvaluatedSlide, sketch: CountSketch) -> tuple[int, float, float, int]:
    """How a slide agrees with the counts of a sketch.

    Returns
    -------
    tuple
        Sketched observations that it has; bits of the clearest one; how many it would have if it were a part of the
        sketched slide; genes that both have.
    """
    shared = np.array([hash_ in slide.columns for hash_ in sketch.genes.tolist()], dtype=bool)
    n = len(slide.names)
    if not shared.any():
        return 0, 0.0, 0.0, 0
    genes = sketch.genes[shared]
    columns = [slide.columns[hash_] for hash_ in genes.tolist()]
    found = count_classes(slide.by_column[:, columns].toarray(), genes)
    asked = sketch.classes[:, shared]
    zero = count_classes(np.zeros((1, len(genes))), genes)[0]
    share = np.stack([(found == one).mean(axis=0) for one in range(16)])
    # Zeros go together, with the depth of an observation: they must agree, but count for nothing.
    bits = np.where(asked == zero, 0, -np.log2(np.maximum(share[asked, np.arange(len(genes))], 1 / n)))
    n_found, most = 0, 0.0
    information = bits.sum(axis=1)
    for spot, wanted, own, name, place in zip(asked, bits, information, sketch.names, sketch.coordinates, strict=True):
        if own < _BITS:
            continue
        rows = np.arange(n)
        for gene in np.argsort(-wanted):
            rows = rows[found[rows, gene] == spot[gene]]
            if not len(rows):
                break
        if not len(rows):
            continue
        # A second witness says which of the tested ones it is.
        same = (slide.name_hashes[rows] == name) | ((place > 0) & (slide.coordinate_hashes[rows] == place))
        beyond = own if same.any() else own - np.log2(n)
        n_found += beyond >= _BITS
        most = max(most, beyond)
    expected = (information - np.log2(n) >= _BITS).sum() * min(1, n / sketch.n_observations)
    return int(n_found), float(most), float(expected), len(genes)
