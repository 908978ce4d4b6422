from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK = 1 << 20
"""Bytes of a chunk, about."""
DTYPE = np.dtype("<f2")
_LARGEST = float(np.finfo(DTYPE).max)
_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]
_ADVICE = "remove its folder and run `stimage.pp.build_pairs` again"


@dataclass(frozen=True)
class _Part:
    """Rows of an array, perhaps times a matrix."""

    path: str
    n_chunk_rows: int
    n_columns: int
    axes: np.ndarray | None = None


class StoredRows:
    """Features of the spots of a slide in a zarr array, whose rows are read when they are asked for, as float32.

    Chunks are not compressed, and rows are read from them by their position: a batch reads its spots and nothing else. Nothing
    is kept open or in memory, so that it can be pickled and used in any number of processes. Made by :meth:`write` and
    :meth:`open`.

    Parameters
    ----------
    parts
        What is side by side, as :meth:`open` makes it.
    n_rows
        Number of spots.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from stimage.data import StoredRows
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = StoredRows.write(f"{folder}/features", np.arange(6.0).reshape(3, 2))
    ...     rows[[2, 0]].tolist(), (rows @ np.ones((2, 1)))[:].ravel().tolist()
    ([[4.0, 5.0], [0.0, 1.0]], [1.0, 5.0, 9.0])
    """

    dtype = np.dtype(np.float32)
    """Type of the rows that are read."""

    def __init__(self, parts: Sequence[Any], n_rows: int) -> None:
        self._parts = tuple(parts)
        widths = [part.n_columns if part.axes is None else part.axes.shape[1] for part in parts]
        self.shape = (n_rows, sum(widths))

    def __repr__(self) -> str:
        return f"StoredRows of {self.shape[0]} x {self.shape[1]} in {self._parts[0].path!r}"

    @classmethod
    def write(cls, path: str | os.PathLike[str], values: np.ndarray) -> StoredRows:
        """Write an array in chunks of rows.

        Parameters
        ----------
        path
            Where; what is there is replaced.
        values
            Features (spots x features), finite.

        Returns
        -------
        StoredRows
            The array.

        Raises
        ------
        ValueError
            If a value is not finite or too large for 16 bits.
        """
        values = np.asarray(values)
        if not (np.abs(values) <= _LARGEST).all():
            raise ValueError(f"Features are not finite, or larger than {_LARGEST:.0f} in size: they cannot be stored.")
        import zarr

        n_rows = max(_CHUNK // max(values.shape[1] * DTYPE.itemsize, 1), 1)
        array = zarr.create_array(
            str(path),
            shape=values.shape,
            chunks=(min(n_rows, len(values)), values.shape[1]),
            dtype=DTYPE,
            # Features hardly shrink, and rows of what is not compressed have a place.
            compressors=None,
            fill_value=np.nan,
            zarr_format=3,
            overwrite=True,
            config={"write_empty_chunks": True},
        )
        array[:] = values.astype(DTYPE)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StoredRows:
        """An array that :meth:`write` wrote.

        Parameters
        ----------
        path
            The array.

        Returns
        -------
        StoredRows
            The array, of which nothing but the shape was read.

        Raises
        ------
        ValueError
            If it is of another kind.
        """
        # A training process may change its working directory.
        place = Path(path).absolute()
        try:
            known: dict[str, Any] = json.loads((place / "zarr.json").read_text())
            n_rows, n_columns = (int(number) for number in known["shape"])
            chunks = known["chunk_grid"]["configuration"]["chunk_shape"]
            fits = known["data_type"] == "float16" and known["codecs"] == _CODECS and chunks[1:] == [n_columns]
            part = _Part(str(place), int(chunks[0]), n_columns)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{str(path)!r} is no array of features ({error!s:.100}).") from error
        if not fits or part.n_chunk_rows < 1:
            raise ValueError(f"{str(path)!r} is no array of features that stimage wrote.")
        return cls([part], n_rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """Read rows, by their numbers (in any order, also repeated), a boolean mask or a slice."""
        rows = np.arange(len(self))[rows]
        ordered, place = np.unique(rows, return_inverse=True)
        found = []
        for part in self._parts:
            values = _read(part, ordered)[place]
            found.append(values if part.axes is None else values @ part.axes)
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows, as numpy asks for them."""
        return np.asarray(self[:], dtype=dtype)

    def __matmul__(self, axes: np.ndarray) -> StoredRows:
        """The product with a matrix (features x components), which is taken of the rows that are read."""
        if len(self._parts) > 1 or self._parts[0].axes is not None:
            raise ValueError("These rows are products already.")
        return StoredRows([replace(self._parts[0], axes=axes)], len(self))

    def beside(self, other: StoredRows) -> StoredRows:
        """These features and others of the same spots.

        Parameters
        ----------
        other
            The others.

        Returns
        -------
        StoredRows
            Both, side by side.
        """
        return StoredRows([*self._parts, *other._parts], len(self))


def _read(part: _Part, rows: np.ndarray) -> np.ndarray:
    """Rows in ascending order, float32."""
    values = np.empty((len(rows), part.n_columns), dtype=DTYPE)
    chunks = rows // part.n_chunk_rows
    for chunk in np.unique(chunks).tolist():
        start, stop = np.searchsorted(chunks, [chunk, chunk + 1])
        _read_chunk(f"{part.path}/c/{chunk}/0", rows[start:stop] - chunk * part.n_chunk_rows, values[start:stop])
    found = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{part.path!r}, features of the images of a slide, is damaged: {_ADVICE}.")
    return found


def _read_chunk(path: str, rows: np.ndarray, values: np.ndarray) -> None:
    """Fill an array with rows of a chunk, each run of adjacent ones at once."""
    row_bytes = values.shape[1] * DTYPE.itemsize
    buffer = memoryview(values.reshape(-1).view(np.uint8))
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path!r}, features of the images of a slide, is gone: {_ADVICE}.") from error
    try:
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            position = int(rows[start]) * row_bytes
            done, end = start * row_bytes, stop * row_bytes
            while done < end:
                n_read = os.preadv(descriptor, [buffer[done:end]], position)
                if not n_read:
                    raise ValueError(f"{path!r}, features of the images of a slide, ends too early: {_ADVICE}.")
                done, position = done + n_read, position + n_read
    finally:
        os.close(descriptor)
