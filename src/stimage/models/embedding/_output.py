from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import numpy as np

from stimage import _validate
from stimage._files import lock_file
from stimage._paths import path_of

if TYPE_CHECKING:
    import zarr

CHUNK = 1 << 22
"""Bytes of a chunk of the array."""


def check_absent(output: str | Path) -> None:
    """Raise unless an output can be written to a path at which there is nothing yet."""
    _validate.check_path("output", output)
    if path_of(output).exists():
        raise FileExistsError(f"There is something at {str(output)!r} (`output`): remove it, or choose another path.")


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """A hidden folder beside an output for what is not finished; emptied of what a killed process left there.

    Raises
    ------
    RuntimeError
        If another process writes the same output.
    """
    folder = output.parent / f".{output.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_file(folder / "lock", f"Another process writes {str(output)!r}: wait for it, or choose another one.")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


class ZarrRows:
    """A zarr array whose rows come in any order, a few at a time; it appears in its place when all of it is there.

    Rows are kept in a plain file first: chunks of an array hold rows that come at very different times, and would be read
    and written again and again.

    Parameters
    ----------
    path
        Where the array will be.
    scratch
        Folder on the same disk, for what is not finished.
    shape
        Rows and columns.
    attributes
        Attributes of the array, JSON-compatible.
    """

    def __init__(self, path: Path, scratch: Path, shape: tuple[int, int], attributes: dict[str, Any]) -> None:
        self.path, self.scratch, self.shape, self.attributes = path, scratch, shape, attributes
        self.row_bytes = shape[1] * np.dtype(np.float32).itemsize

    def __enter__(self) -> Self:
        self.file = os.open(self.scratch / "rows", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            os.close(self.file)

    def __setitem__(self, rows: np.ndarray, values: np.ndarray) -> None:
        if not len(rows):
            return
        order = np.argsort(rows)
        rows, values = rows[order], np.ascontiguousarray(values[order], dtype=np.float32)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            run, offset = memoryview(values[start:stop]).cast("B"), int(rows[start]) * self.row_bytes
            while run:
                written = os.pwrite(self.file, run, offset)
                run, offset = run[written:], offset + written

    def _finish(self) -> None:
        n_rows, n_columns = self.shape
        step = max(CHUNK // self.row_bytes, 1)
        scratch = self.scratch / "array"
        array = _zarr().open_array(
            str(scratch), mode="w", shape=self.shape, chunks=(min(step, n_rows), n_columns), dtype="float32"
        )
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            part = os.pread(self.file, (stop - start) * self.row_bytes, start * self.row_bytes)
            array[start:stop] = np.frombuffer(part, dtype=np.float32).reshape(-1, n_columns)
        array.attrs.update(plain(self.attributes))
        os.rename(scratch, self.path)


def new_group(path: Path, scratch: Path, attributes: dict[str, Any]) -> None:
    """An empty zarr group with attributes, which appears in its place with them."""
    group = _zarr().open_group(str(scratch / "group"), mode="w")
    group.attrs.update(plain(attributes))
    os.rename(scratch / "group", path)


def open_array(path: Path) -> zarr.Array:
    """An array to read from."""
    return _zarr().open_array(str(path), mode="r")


def open_group(path: Path) -> zarr.Group:
    """A group to read from."""
    return _zarr().open_group(str(path), mode="r")


def group_key(name: str) -> str:
    """Name of a slide as the name of an array in a group: without slashes and dots, which have a meaning there."""
    key = quote(name, safe=" ").replace(".", "%2E")
    return key.replace("_", "%5F", 1) if key.startswith("__") else key


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as they come back from JSON."""
    return json.loads(json.dumps(attributes, default=lambda value: value.item()))


def _zarr():
    # It takes a while to load, and comes with anndata.
    import zarr

    return zarr
