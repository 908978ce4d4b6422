"""Slides from files, folders and memory, one at a time and without changing them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stimage import _keys
from stimage._paths import path_of
from stimage._validate import check_counts, check_text, listing
from stimage.pp._grid import compact_grid
from stimage.pp._spatialdata import from_spatialdata
from stimage.pp._visium import VISIUM_COUNTS, read_visium

if TYPE_CHECKING:
    from anndata import AnnData

_EDGE = 1 << 20
"""Bytes at either end of a file that go into its fingerprint."""
_EDGE_IN_FOLDER = 1 << 12
"""The same for each of the files of a folder, of which there may be many."""


@dataclass(frozen=True)
class Source:
    """An AnnData, or where to read one."""

    label: str
    kind: Literal["memory", "h5ad", "zarr", "visium"]
    value: AnnData | Path

    @property
    def name(self) -> str:
        """What a slide of this source is called when it has no name of its own; empty for an AnnData."""
        return "" if self.kind == "memory" else self.value.name.removesuffix(f".{self.kind}")


def check_sources(
    sources: AnnData | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
) -> list[Source]:
    """Return sources as a list; raise for what is not there or cannot be one, without reading anything."""
    from anndata import AnnData

    alone = isinstance(sources, AnnData | str | os.PathLike) or not isinstance(sources, Sequence)
    sources = [sources] if alone else list(sources)
    if not sources:
        raise ValueError("`sources` is empty: pass at least one path or AnnData.")
    checked = []
    for number, source in enumerate(sources):
        if isinstance(source, AnnData):
            checked.append(Source(f"sources[{number}]", "memory", source))
        elif isinstance(source, str | os.PathLike):
            path = path_of(source)
            checked.append(Source(repr(str(path)), _kind(path), path))
        else:
            raise TypeError(f"`sources[{number}]` must be a path or an AnnData, found {type(source).__name__}.")
    return checked


def _kind(path: Path) -> Literal["h5ad", "zarr", "visium"]:
    if not path.exists():
        raise FileNotFoundError(f"`sources`: there is no {str(path)!r}.")
    if path.suffix == ".h5ad" and path.is_file():
        return "h5ad"
    if path.suffix == ".zarr" and path.is_dir():
        return "zarr"
    if (path / VISIUM_COUNTS).is_file():
        return "visium"
    bins = sorted(folder.parent.name for folder in path.glob(f"binned_outputs/*/{VISIUM_COUNTS}"))
    if bins:
        raise ValueError(
            f"`sources`: {str(path)!r} has bins of several sizes ({listing(bins)}): pass the folder of one of them, e.g. "
            f"{str(path / 'binned_outputs' / bins[0])!r}."
        )
    raise ValueError(
        f"`sources`: {str(path)!r} is no .h5ad file, no .zarr folder and no folder with {VISIUM_COUNTS!r}: read it "
        "yourself and pass the AnnData."
    )


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Say which source an error is about."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise type(error)(f"Source {source.label}: {error.args[0] if error.args else error}") from error
    except ValueError as error:
        raise ValueError(f"Source {source.label}: {error}") from error


def fingerprint(source: Source, layer: str | None) -> str:
    """Name and hash of a source, which do not depend on where it lies.

    Of a file its size and its first and last megabyte count, of a folder the names of its files too, of an AnnData its
    names and the sums of its counts.
    """
    digest = hashlib.sha256()
    if source.kind == "memory":
        with naming(source):
            adata, counts = source.value, check_counts(source.value, layer)
        for names in (adata.obs_names, adata.var_names):
            digest.update("\n".join(names.astype(str)).encode() + b"\0")
        for axis in (0, 1):
            digest.update(np.asarray(counts.sum(axis=axis), dtype=np.float64).tobytes())
        return f"AnnData {digest.hexdigest()[:32]}"
    path, edge = source.value, _EDGE
    files = [path]
    if path.is_dir():
        edge = _EDGE_IN_FOLDER
        files = sorted(
            (file for file in path.rglob("*") if file.is_file()), key=lambda file: file.relative_to(path).parts
        )
    for file in files:
        size = file.stat().st_size
        inside = "/".join(file.relative_to(path).parts)
        digest.update(f"{inside}\0{size}\0".encode())
        with file.open("rb") as content:
            digest.update(content.read(edge))
            content.seek(max(size - edge, 0))
            digest.update(content.read(edge))
    return f"{path.name} {digest.hexdigest()[:32]}"


def read_source(source: Source, *, slide_key: str | None, grid_key: str, table: str) -> AnnData:
    """Read a source and give it a grid if it has none; what lies in memory or on disk stays as it is."""
    with naming(source):
        adata, region_key = source.value, None
        if source.kind != "memory":
            try:
                adata, region_key = _read(source, table)
            except (KeyError, TypeError, ValueError, ImportError):
                raise
            except Exception as error:
                # Each format has errors of its own for a file that is damaged.
                raise ValueError(f"it cannot be read ({type(error).__name__}: {error!s:.300}).") from error
        if grid_key in adata.uns:
            return adata
        if slide_key is None:
            slide_key = region_key
        sites = _without_expression(adata)
        compact_grid(sites, slide_key=slide_key, key_added=grid_key)
        return _with_expression(adata, sites)


def _read(source: Source, table: str) -> tuple[AnnData, str | None]:
    """An AnnData, and the key of its regions when it has several."""
    if source.kind == "h5ad":
        from anndata import read_h5ad

        return read_h5ad(source.value), None
    if source.kind == "visium":
        return read_visium(source.value), None
    import zarr

    root = zarr.open_group(source.value, mode="r")
    if root.attrs.get("encoding-type") == "anndata":
        from anndata import read_zarr

        return read_zarr(source.value), None
    if "tables" not in root:
        raise ValueError(f"it is neither an AnnData nor a SpatialData; it has {listing(root.keys(), 5)}.")
    from stimage._spatialdata import load_spatialdata

    check_text("table", table)
    sdata = load_spatialdata().read_zarr(source.value, selection=("tables", "shapes", "labels"))
    adata = from_spatialdata(sdata, table=table)
    region_key = str(adata.uns["spatialdata_attrs"]["region_key"])
    return adata, region_key if adata.obs[region_key].nunique() > 1 else None


def _without_expression(adata: AnnData) -> AnnData:
    """Observations and their coordinates alone, to be given a grid."""
    from anndata import AnnData

    uns = {key: adata.uns[key] for key in adata.uns if key == _keys.SPATIAL}
    return AnnData(obs=adata.obs.copy(), obsm=dict(adata.obsm), uns=uns)


def _with_expression(adata: AnnData, sites: AnnData) -> AnnData:
    """Observations with a grid, and the expression of the AnnData, which is shared."""
    from anndata import AnnData

    layers = {key: adata.layers[key] for key in adata.layers if key is not None}
    return AnnData(X=adata.X, obs=sites.obs, var=adata.var, uns=dict(sites.uns), layers=layers)
