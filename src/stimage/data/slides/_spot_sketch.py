"""Fingerprints of slides, by which a slide is recognised after observations or genes were removed or observations renamed."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from stimage.data.slides._ensembl import ensembl_id

SKETCH_SIZE = 64
"""Pairs of name and total count, and observations whose counts are sketched."""
SKETCH_GENES = 96
_N_JUDGED = 10_000  # observations that genes are chosen by, and that are hashed together
_COUNTS = "counts:"
_HEADER = struct.Struct("<IHH")


@dataclass(frozen=True)
class CountSketch:
    """Counts of some genes in some observations of a slide, each as one of sixteen classes.

    Parameters
    ----------
    n_observations
        Observations of the slide.
    genes
        Hashes of the genes' names (genes).
    names
        Hashes of the observations' names (observations).
    coordinates
        Hashes of their coordinates, 0 where these are of a lattice that other slides share (observations).
    classes
        Class of each count (observations x genes).
    """

    n_observations: int
    genes: np.ndarray
    names: np.ndarray
    coordinates: np.ndarray
    classes: np.ndarray

    def to_text(self) -> str:
        """The sketch in base 64, some 6 kB."""
        n_spots, n_genes = self.classes.shape
        flat = np.append(self.classes.ravel(), np.zeros(self.classes.size % 2, dtype=np.uint8))
        parts = (self.genes.astype("<u8"), self.names.astype("<u4"), self.coordinates.astype("<u4"))
        content = _HEADER.pack(self.n_observations, n_spots, n_genes) + b"".join(part.tobytes() for part in parts)
        return base64.b64encode(content + (flat[::2] << 4 | flat[1::2]).tobytes()).decode()

    @classmethod
    def from_text(cls, text: str) -> CountSketch:
        """What :meth:`to_text` wrote; raises ``ValueError`` for anything else."""
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"the sketch of a slide's counts is damaged ({error})") from error
        if len(content) < _HEADER.size:
            raise ValueError("the sketch of a slide's counts is truncated")
        n_observations, n_spots, n_genes = _HEADER.unpack_from(content)
        sizes = np.cumsum([_HEADER.size, 8 * n_genes, 4 * n_spots, 4 * n_spots, (n_spots * n_genes + 1) // 2])
        if len(content) != sizes[-1]:
            raise ValueError("the sketch of a slide's counts is truncated")
        types = ("<u8", "<u4", "<u4", "u1")
        ends = zip(sizes[:-1], sizes[1:], types, strict=True)
        genes, names, coordinates, packed = (np.frombuffer(content[a:b], kind) for a, b, kind in ends)
        classes = np.stack([packed >> 4, packed & 15], axis=1).ravel()[: n_spots * n_genes]
        return cls(n_observations, genes, names, coordinates, classes.reshape(n_spots, n_genes))


def spot_sketch(
    names: Iterable[str],
    totals: np.ndarray,
    counts_of: Callable[[np.ndarray], sparse.csr_matrix],
    genes: Iterable[str],
    coordinates: np.ndarray | None = None,
) -> str:
    """Fingerprint of a slide that survives filtering and reordering of observations and genes.

    It has two parts. Barcodes are shared by all slides of a platform, pairs of barcode and total count are not: of the hashes
    of the pairs the smallest are kept (a bottom-k sketch, Broder 1997). Totals change when genes are removed, names when
    observations are renamed: of 64 observations, half of them rich in counts, the counts of 96 genes are therefore kept too,
    each as a class of four bits. Half of the genes are those that tell most, half are drawn by their hash from those that
    are not rare, so that few filters remove all of them.

    Parameters
    ----------
    names
        Names of the observations.
    totals
        Counts of each observation over all genes that the slide has.
    counts_of
        Reads the counts of some observations (observations x genes) by their numbers.
    genes
        Names of the genes.
    coordinates
        Coordinates (observations x 2), if known.

    Returns
    -------
    str
        The smallest hashes in ascending order, 12 hexadecimal digits each, and the :class:`CountSketch`, separated by blanks.
    """
    names = np.asarray(list(names), dtype=object)
    pairs: list[str] = []
    for start in range(0, len(names), _N_JUDGED):
        part = slice(start, start + _N_JUDGED)
        pairs = sorted({*pairs, *spot_hashes(names[part], totals[part])})[:SKETCH_SIZE]
    gene_hash, name_hash = gene_hashes(genes), name_hashes(names)
    judged = np.argsort(name_hash, kind="stable")[:_N_JUDGED]
    chosen = np.sort(_telling_genes(counts_of(judged), gene_hash))
    spots = _sampled_spots(name_hash, totals)
    sketch = CountSketch(
        n_observations=len(names),
        genes=gene_hash[chosen],
        names=name_hash[spots],
        coordinates=coordinate_hashes(coordinates, spots),
        classes=count_classes(counts_of(spots)[:, chosen].toarray(), gene_hash[chosen]),
    )
    return " ".join([*pairs, _COUNTS + sketch.to_text()])


def read_sketch(text: str) -> tuple[set[str], CountSketch | None]:
    """Both parts of a sketch; sketches of older models have the first one only.

    Raises
    ------
    ValueError
        If the second part is not whole.
    """
    parts = text.split()
    counts = [part.removeprefix(_COUNTS) for part in parts if part.startswith(_COUNTS)]
    pairs = {part for part in parts if not part.startswith(_COUNTS)}
    return pairs, CountSketch.from_text(counts[0]) if counts else None


def spot_hashes(names: Iterable[str], totals: np.ndarray) -> set[str]:
    """Hash of each pair of observation name and total count, 12 hexadecimal digits."""
    pairs = zip(names, np.rint(totals).astype(np.int64), strict=True)
    return {hashlib.sha256(f"{name}\t{total}".encode()).hexdigest()[:12] for name, total in pairs}


def gene_hashes(genes: Iterable[str]) -> np.ndarray:
    """Hash of each gene's name, whatever its case and version (genes)."""
    names = (str(gene).upper() for gene in genes)
    return _hashes((ensembl_id(name) or name for name in names), 8)


def name_hashes(names: Iterable[str]) -> np.ndarray:
    """Hash of each observation's name (observations)."""
    return _hashes(map(str, names), 4)


def coordinate_hashes(coordinates: np.ndarray | None, spots: np.ndarray) -> np.ndarray:
    """Hash of the coordinates of some observations, 0 for those of a lattice (chosen observations)."""
    if coordinates is None:
        return np.zeros(len(spots), dtype=np.uint32)
    xy = np.asarray(coordinates, dtype=np.float64)[:, :2]
    # The points of a lattice have few values on each axis, and all slides of a platform have the same.
    if max(len(np.unique(column)) for column in xy.T) <= 4 * np.sqrt(len(xy)):
        return np.zeros(len(spots), dtype=np.uint32)
    return _hashes((f"{x:.6g}\t{y:.6g}" for x, y in xy[spots]), 4)


def count_classes(counts: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Class of four bits of each count (observations x genes), another one for each gene."""
    mixed = genes.astype(np.uint64) ^ (np.rint(counts).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    # The finaliser of splitmix64.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(60)).astype(np.uint8)


def _telling_genes(counts: sparse.csr_matrix, gene_hash: np.ndarray) -> np.ndarray:
    """Half of them of the largest entropy, half of the smallest hash among those in one of twenty observations."""
    n, n_genes = counts.shape
    detected = np.bincount(counts.indices[counts.data > 0], minlength=n_genes) / n
    share = [np.bincount(counts.indices[np.rint(counts.data) == k], minlength=n_genes) / n for k in (1, 2)]
    share = np.stack([1 - detected, *share, detected - sum(share)])
    entropy = -(share * np.log(np.clip(share, 1e-12, None))).sum(axis=0)
    best = np.lexsort([gene_hash, -entropy])[: SKETCH_GENES // 2]
    common = np.setdiff1d(np.flatnonzero(detected >= 0.05), best)
    return np.concatenate([best, common[np.argsort(gene_hash[common])[: SKETCH_GENES - len(best)]]])


def _sampled_spots(name_hash: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Observations of the smallest hashes, half of them among all and half among those with more counts than the median."""
    order = np.argsort(name_hash, kind="stable")
    order = order[totals[order] > 0]
    rich = order[totals[order] > np.median(totals)][: SKETCH_SIZE // 2]
    return np.sort(np.concatenate([rich, order[~np.isin(order, rich)][: SKETCH_SIZE - len(rich)]]))


def _hashes(texts: Iterable[str], n_bytes: int) -> np.ndarray:
    joined = b"".join(hashlib.sha256(text.encode()).digest()[:n_bytes] for text in texts)
    return np.frombuffer(joined, dtype=f"<u{n_bytes}").astype(f"u{n_bytes}")
