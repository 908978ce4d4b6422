"""Rows that are read by their position are those that zarr reads."""

import numpy as np
import pytest
import zarr

from stimage.data import StoredRows
from stimage.data.corpus import _stored_rows


@pytest.fixture(params=[64, 1 << 20])
def stored(tmp_path, monkeypatch, request):
    """Many chunks of a few rows, the last of them not full, and one chunk."""
    monkeypatch.setattr(_stored_rows, "_CHUNK", request.param)
    values = np.random.default_rng(0).normal(size=(23, 7)).astype(np.float32)
    rows = StoredRows.write(tmp_path / "rows", values)
    array = zarr.open_array(str(tmp_path / "rows"), mode="r")
    assert array.chunks[0] == (4 if request.param == 64 else 23)
    return rows, array[:].astype(np.float32), values


@pytest.mark.parametrize(
    "chosen", [slice(None), [0], [], [22, 3, 3, 4, 5, -1], slice(5, 17, 3), np.arange(23) % 3 == 1, np.arange(4, 12)]
)
def test_rows(stored, chosen):
    rows, expected, _ = stored
    assert rows.shape == expected.shape
    chosen = np.array(chosen, dtype=int) if isinstance(chosen, list) else chosen
    found = rows[chosen]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected[chosen])
    axes = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_allclose((rows @ axes)[chosen], expected[chosen] @ axes, rtol=1e-5, atol=1e-6)
    both = (rows @ axes).beside(rows)
    assert both.shape == (23, 10)
    np.testing.assert_allclose(both[chosen], np.hstack([expected @ axes, expected])[chosen], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(rows), expected)


def test_rounding(stored):
    _, found, values = stored
    np.testing.assert_allclose(found, values, rtol=2**-11)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_cannot_be_stored(tmp_path, value):
    with pytest.raises(ValueError, match="cannot be stored"):
        StoredRows.write(tmp_path / "rows", np.array([[1.0, value]]))


def test_arrays_of_others(tmp_path):
    zarr.create_array(str(tmp_path / "packed"), shape=(5, 2), dtype="float16")
    zarr.create_array(str(tmp_path / "wide"), shape=(5, 2), dtype="float32", compressors=None)
    for name in ("packed", "wide"):
        with pytest.raises(ValueError, match="that stimage wrote"):
            StoredRows.open(tmp_path / name)
