"""One slide as one safetensors file: expression first, then the small arrays, which are read in one piece."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stimage.data.lattices import lattice_of
from stimage.data.slides._row_matrix import RowMatrix
from stimage.data.slides._slide import Slide
from stimage.data.slides._stored_matrix import DATA_DTYPE, INDICES_DTYPE, LARGEST_VALUE, StoredMatrix

DTYPES = {"F32": DATA_DTYPE, "I32": INDICES_DTYPE, "I64": np.dtype("<i8"), "BOOL": np.dtype("?")}
_TEXTS = ("donor", "layout", "name", "parity", "spot_sketch", "target_sum")
_LONGEST_HEADER = 1 << 20
_PIECE = 1 << 24


def write_slide(path: Path, slide: Slide) -> tuple[int, str]:
    """Write a slide to a new file that is on the disk when this returns.

    Parameters
    ----------
    path
        The file.
    slide
        The slide; its expression may be in memory or on disk.

    Returns
    -------
    tuple
        Bytes of the file and their SHA-256.
    """
    small = _small_arrays(slide)
    mean = "mean" if slide.centre is None else "centre"
    header = _header(
        n_values=slide.expression.nnz,
        n_sites=slide.n_sites,
        n_genes=slide.expression.shape[1],
        n_observations=len(slide.observation_index),
        raster=slide.shape,
        mean=mean,
        texts={
            "donor": slide.donor,
            "layout": slide.layout,
            "name": slide.name,
            "parity": str(int(slide.parity)),
            "spot_sketch": slide.spot_sketch,
            "target_sum": repr(float(slide.target_sum)),
        },
    )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        start = np.frombuffer(len(text).to_bytes(8, "little") + text, dtype=np.uint8)
        for values in chain([start], _expression_pieces(slide), (small[name] for name in header if name in small)):
            n_bytes += _write(file, digest, values)
        file.flush()
        os.fsync(file.fileno())
    return n_bytes, digest.hexdigest()


def read_slide(path: Path, *, n_genes: int) -> Slide:
    """Read a slide, all but its expression, which stays in the file.

    Parameters
    ----------
    path
        What :func:`write_slide` wrote.
    n_genes
        Genes of the vocabulary.

    Returns
    -------
    Slide
        The slide.

    Raises
    ------
    ValueError
        If the file is truncated or was not written by :func:`write_slide`.
    """
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        header, start = _read_header(file, n_bytes, n_genes)
        data_end, indices_end = (header[name]["data_offsets"][1] for name in ("data", "indices"))
        file.seek(start + indices_end)
        # A copy in memory that can be written to, as the arrays of any other slide can.
        tail = bytearray(file.read(n_bytes - start - indices_end))
    arrays = {}
    for name, entry in header.items():
        if name not in ("__metadata__", "data", "indices"):
            offset = entry["data_offsets"][0] - indices_end
            count = math.prod(entry["shape"])
            arrays[name] = np.frombuffer(tail, DTYPES[entry["dtype"]], count, offset).reshape(entry["shape"])
    texts = header["__metadata__"]
    indptr = arrays.pop("indptr")
    _check_arrays(arrays, indptr, n_values=header["data"]["shape"][0])
    _check_finite(arrays)
    mean = arrays.pop("mean", None)
    return Slide(
        name=texts["name"],
        expression=StoredMatrix(
            path, (len(indptr) - 1, n_genes), indptr, data_offset=start, indices_offset=start + data_end
        ),
        layout=texts["layout"],
        parity=int(texts["parity"]),
        donor=texts["donor"],
        spot_sketch=texts["spot_sketch"],
        target_sum=float(texts["target_sum"]),
        known_mean=mean,
        **arrays,
    )


def check_contents(slide: Slide) -> None:
    """Read all of a slide's expression and raise ``ValueError`` for what neither size nor header tell.

    A checksum says that a file is the one that was written, and not that what was written can be right.
    """
    if len(np.unique(slide.observation_index)) < len(slide.observation_index):
        raise ValueError("it has an observation twice")
    total = np.zeros(slide.expression.shape[1])
    for sites, block in slide.expression.row_blocks():
        n_values = block.nnz
        block.sum_duplicates()
        if block.nnz < n_values:
            raise ValueError("it has a gene twice in one site")
        total += np.asarray(block[slide.active[sites]].sum(axis=0, dtype=np.float64)).ravel()
    if total[~slide.measured].any():
        raise ValueError("it has expression of genes that were not measured")
    mean = total / max(slide.active.sum(), 1)
    if slide.centre is None and not np.allclose(slide.gene_mean, mean, rtol=1e-3, atol=1e-5):
        raise ValueError("its mean is not that of its expression")


def _small_arrays(slide: Slide) -> dict[str, np.ndarray]:
    indptr = slide.expression.indptr
    arrays = {
        "indptr": np.asarray(indptr, dtype=DTYPES["I64"]),
        "observation_index": np.asarray(slide.observation_index, dtype=DTYPES["I64"]),
        "site_of_observation": np.asarray(slide.site_of_observation, dtype=DTYPES["I64"]),
        "library_size": np.asarray(slide.library_size, dtype=DTYPES["F32"]),
        "raster": np.asarray(slide.raster, dtype=DTYPES["I32"]),
        "measured": np.asarray(slide.measured, dtype=DTYPES["BOOL"]),
    }
    values = () if isinstance(slide.expression, RowMatrix) else slide.expression.data
    if len(values) and not (values.min() >= 0 and values.max() <= LARGEST_VALUE):
        raise ValueError("its expression is not log1p of counts")
    _check_arrays(arrays, arrays["indptr"], n_values=slide.expression.nnz)
    # Summed once, when the slide is written, and not by every process that trains on it.
    name = "mean" if slide.centre is None else "centre"
    mean = {name: np.asarray(slide.gene_mean, dtype=DTYPES["F32"])}
    _check_finite(mean)
    return arrays | mean


def _expression_pieces(slide: Slide) -> Iterator[np.ndarray]:
    """Values, then their columns; of a slide that is on disk itself a block at a time."""
    if isinstance(slide.expression, RowMatrix):
        for _, block in slide.expression.row_blocks():
            yield block.data.astype(DATA_DTYPE, copy=False)
        for _, block in slide.expression.row_blocks():
            yield block.indices.astype(INDICES_DTYPE, copy=False)
    else:
        yield slide.expression.data.astype(DATA_DTYPE, copy=False)
        yield slide.expression.indices.astype(INDICES_DTYPE, copy=False)


def _write(file: BinaryIO, digest: Any, values: np.ndarray) -> int:
    view = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    for start in range(0, len(view), _PIECE):
        digest.update(view[start : start + _PIECE])
        file.write(view[start : start + _PIECE])
    return len(view)


def _header(
    *,
    n_values: int,
    n_sites: int,
    n_genes: int,
    n_observations: int,
    raster: tuple[int, int],
    mean: str,
    texts: dict[str, str],
) -> dict[str, Any]:
    """The header of a slide's file. Large types come first, so that every array is aligned."""
    shapes = {
        "data": ("F32", [n_values]),
        "indices": ("I32", [n_values]),
        "indptr": ("I64", [n_sites + 1]),
        "observation_index": ("I64", [n_observations]),
        "site_of_observation": ("I64", [n_observations]),
        "library_size": ("F32", [n_sites]),
        mean: ("F32", [n_genes]),
        "raster": ("I32", list(raster)),
        "measured": ("BOOL", [n_genes]),
    }
    header: dict[str, Any] = {"__metadata__": texts}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        end = offset + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    return header


def _read_header(file: BinaryIO, n_bytes: int, n_genes: int) -> tuple[dict[str, Any], int]:
    """The header, checked to be one that :func:`_header` makes, and where the arrays begin."""
    length = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or not 0 < length <= min(n_bytes - 8, _LONGEST_HEADER):
        raise ValueError("it has no header")
    try:
        found = json.loads(file.read(length))
        texts = found["__metadata__"]
        expected = _header(
            n_values=_size(found["data"]["shape"][0]),
            n_sites=_size(found["indptr"]["shape"][0]) - 1,
            n_genes=n_genes,
            n_observations=_size(found["observation_index"]["shape"][0]),
            raster=tuple(_size(n) for n in found["raster"]["shape"]),
            mean="centre" if "centre" in found else "mean",
            texts=texts,
        )
        if (
            not isinstance(texts, dict)
            or list(texts) != list(_TEXTS)
            or not all(isinstance(text, str) for text in texts.values())
        ):
            raise ValueError("its description is not that of a slide")
        lattice_of(texts["layout"])
        if texts["parity"] not in ("0", "1"):
            raise ValueError(f"it has the parity {texts['parity']!r:.50}")
        if not 0 < float(texts["target_sum"]) < math.inf:
            raise ValueError(f"it has the target sum {texts['target_sum']!r:.50}")
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"its header is not that of a slide ({error!r:.100})") from error
    if found != expected or len(expected["raster"]["shape"]) != 2 or 0 in expected["raster"]["shape"]:
        raise ValueError(f"its arrays are not those of a slide with {n_genes} genes")
    start, end = 8 + length, max(entry["data_offsets"][1] for name, entry in expected.items() if name[0] != "_")
    if start + end != n_bytes:
        raise ValueError(f"it has {n_bytes} bytes instead of {start + end}")
    # Order and types as written here: numbers of the file could be equal ones of another type.
    return expected, start


def _size(number: object) -> int:
    if not isinstance(number, int) or number < 0:
        raise TypeError(f"size {number!r:.50}")
    return int(number)


def _check_arrays(arrays: dict[str, np.ndarray], indptr: np.ndarray, *, n_values: int) -> None:
    """Raise ``ValueError`` for numbers that would let compiled code read what is not the slide's."""
    n_sites = len(indptr) - 1
    sites, library_size, raster = (arrays[name] for name in ("site_of_observation", "library_size", "raster"))
    steps = np.diff(indptr)
    if n_sites < 1 or indptr[0] != 0 or indptr[-1] != n_values or (steps < 0).any():
        raise ValueError("its row pointers are not in order")
    if len(library_size) != n_sites or not np.isfinite(library_size).all() or (library_size < 0).any():
        raise ValueError("its library sizes are not those of its sites")
    if raster.min() < -1 or raster.max() >= n_sites:
        raise ValueError("its raster shows sites that it does not have")
    if np.bincount(raster[raster >= 0]).max(initial=0) > 1:
        raise ValueError("its raster shows a site twice")
    if len(sites) != len(arrays["observation_index"]) or (len(sites) and not 0 <= sites.min() <= sites.max() < n_sites):
        raise ValueError("its observations are on sites that it does not have")
    if arrays["observation_index"].min(initial=0) < 0:
        raise ValueError("its observations have negative positions")


def _check_finite(arrays: dict[str, np.ndarray]) -> None:
    for name in ("mean", "centre"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise ValueError(f"its {name} is not finite")
