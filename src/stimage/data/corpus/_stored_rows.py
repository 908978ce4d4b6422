from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_CHUNK = 1 << 20
"""Bytes of a chunk: a batch reads most chunks of a slide, and no more of them than there are."""
DTYPE = np.dtype("float16")
_LARGEST = float(np.finfo(DTYPE).max)


class StoredRows:
    """Features of the spots of a slide in a zarr array, whose rows are read when they are asked for, as float32.

    Nothing is kept open or in memory, so that it can be pickled and used in any number of processes.

    Parameters
    ----------
    path
        The array (spots x features), float16.
    shape
        Its shape.

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

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int]) -> None:
        # A training process may change its working directory.
        self._parts: list[tuple[str, np.ndarray | None]] = [(str(Path(path).absolute()), None)]
        self.shape = (int(shape[0]), int(shape[1]))

    def __repr__(self) -> str:
        return f"StoredRows of {self.shape[0]} x {self.shape[1]} in {self._parts[0][0]!r}"

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
            # Random features hardly shrink. A chunk that is lost is read as NaN, and so noticed.
            compressors=None,
            fill_value=np.nan,
            overwrite=True,
            config={"write_empty_chunks": True},
        )
        array[:] = values.astype(DTYPE)
        return cls(path, values.shape)

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
        import zarr

        array = zarr.open_array(str(path), mode="r")
        if array.ndim != 2 or array.dtype != DTYPE:
            raise ValueError(f"{str(path)!r} is no array of features: it is {array.ndim}-d {array.dtype}.")
        return cls(path, array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """Read rows, by their numbers (in any order, also repeated), a boolean mask or a slice."""
        rows = np.arange(len(self))[rows]
        # In ascending order, each chunk is read once.
        ordered, place = np.unique(rows, return_inverse=True)
        found = []
        for path, axes in self._parts:
            values = _read(path, ordered)[place]
            found.append(values if axes is None else values @ axes)
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows, as numpy asks for them."""
        return np.asarray(self[:], dtype=dtype)

    def __matmul__(self, axes: np.ndarray) -> StoredRows:
        """The product with a matrix (features x components), which is taken of the rows that are read."""
        if len(self._parts) > 1 or self._parts[0][1] is not None:
            raise ValueError("These rows are products already.")
        return self._of([(self._parts[0][0], axes)], axes.shape[1])

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
        return self._of([*self._parts, *other._parts], self.shape[1] + other.shape[1])

    def _of(self, parts: list[tuple[str, np.ndarray | None]], width: int) -> StoredRows:
        rows = StoredRows(parts[0][0], (len(self), width))
        rows._parts = parts
        return rows


def _read(path: str, rows: np.ndarray) -> np.ndarray:
    """Rows in ascending order, float32."""
    import zarr

    advice = "remove its folder and run `stimage.pp.build_pairs` again"
    try:
        array = zarr.open_array(path, mode="r")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path!r}, features of the images of a slide, is gone: {advice}.") from error
    values = array[:] if len(rows) == array.shape[0] else array.oindex[rows]
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path!r}, features of the images of a slide, is damaged: {advice}.")
    return values
