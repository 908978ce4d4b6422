"""Slides from files, folders and memory, one at a time and without changing them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys
from stimage._files import sha256_of
from stimage._libraries import library_name
from stimage._paths import path_of
from stimage._validate import check_counts
from stimage.io._anndata import tidy
from stimage.io._choice import Options
from stimage.io._note import note_of
from stimage.io._registry import Format, format_of, read_as
from stimage.pp.grid._compact_grid import compact_grid

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Source:
    """An AnnData, or where to read one.

    Parameters
    ----------
    label
        How messages call it.
    value
        The AnnData, or the path.
    format
        Format of the path; ``None`` for an AnnData.
    name
        What a slide of this source is called when it has no name of its own; empty where nothing identifies it.
    """

    label: str
    value: AnnData | Path
    format: Format | None
    name: str

    @property
    def path(self) -> str:
        """The whole path, by which a source is known again; empty for an AnnData."""
        return "" if self.format is None else str(self.value.resolve())


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
            name = library_name(source, None, only_slide=True) or ""
            checked.append(Source(f"sources[{number}]", source, None, name))
        elif isinstance(source, str | os.PathLike):
            path = path_of(source)
            format = format_of(path, "sources")
            checked.append(Source(repr(str(path)), path, format, format.slide_name(path)))
        else:
            raise TypeError(f"`sources[{number}]` must be a path or an AnnData, found {type(source).__name__}.")
    return _told_apart(checked)


def _told_apart(sources: list[Source]) -> list[Source]:
    """Files of one name get those of the folders above them that differ: a name does not depend on the order of sources."""
    by_name: dict[str, dict[str, int]] = {}
    for source in sources:
        if source.format is not None:
            by_name.setdefault(source.name, {})[source.path] = 0
    renamed = {}
    for name, paths in by_name.items():
        if len(paths) > 1:
            folders = [Path(path).parent.parts for path in paths]
            depth = next(
                n for n in range(1, max(map(len, folders)) + 1) if len({parts[-n:] for parts in folders}) == len(folders)
            ) if len(set(folders)) == len(folders) else 0  # fmt: skip
            for path, parts in zip(paths, folders, strict=True):
                above = [part for part in parts[len(parts) - depth :] if part not in (name, os.sep)]
                renamed[path] = "_".join([*_without_shared(above, folders, depth), name])
    return [replace(source, name=renamed.get(source.path, source.name)) for source in sources]


def _without_shared(above: list[str], folders: list[tuple[str, ...]], depth: int) -> list[str]:
    """Folders above a file, without those that all files have in the same place."""
    shared = {
        parts[0]
        for parts in zip(*(folder[len(folder) - depth :] for folder in folders if len(folder) >= depth), strict=False)
        if len(set(parts)) == 1
    }
    return [part for part in above if part not in shared] or above


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Say which source an error is about."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise type(error)(f"Source {source.label}: {error.args[0] if error.args else error}") from error
    except (ValueError, ImportError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"Source {source.label}: {error}") from error


def fingerprint(source: Source, layer: str | None) -> str:
    """Name and hash of a source, which do not depend on where it lies.

    All bytes of the files that determine the slide count, with their names; of an AnnData its names and its counts.
    """
    digest = hashlib.sha256()
    if source.format is None:
        with naming(source):
            _hash_anndata(source.value, layer, digest)
        return f"AnnData {digest.hexdigest()[:32]}"
    path = source.value
    with naming(source):
        files = source.format.files(path)
    # Names within the source: its folder, or the one that holds its files, may have moved.
    top = path if path.is_dir() else Path(os.path.commonpath([file.parent for file in files]))
    for file in files:
        inside = file.relative_to(top).as_posix() if file.is_relative_to(top) else file.name
        digest.update(f"{inside}\0{file.stat().st_size}\0".encode())
        digest.update(bytes.fromhex(sha256_of(file)))
    return f"{path.name} {digest.hexdigest()[:32]}"


def _hash_anndata(adata: AnnData, layer: str | None, digest: hashlib._Hash) -> None:
    counts = tidy(adata, None, Options(layer=layer, images=False)).X
    for names in (adata.obs_names, adata.var_names):
        digest.update("\n".join(names.astype(str)).encode() + b"\0")
    for axis in (0, 1):
        digest.update(np.asarray(counts.sum(axis=axis), dtype=np.float64).tobytes())


def read_source(
    source: Source,
    *,
    layer: str | None,
    slide_key: str | None,
    grid_key: str,
    table: str | None,
    coordinate_system: str | None,
    min_spots: int = 0,
    images: bool = False,
) -> AnnData:
    """Read a source, with raw counts in ``X``, and give it a grid if it has none; what lies in memory or on disk stays as it is.

    With ``images`` it has its images and its coordinates as well.
    """
    with naming(source):
        options = Options(layer=layer, images=images)
        if source.format is None:
            adata = tidy(source.value, None, options)
        else:
            known = {"layer": layer, "table": table, "coordinate_system": coordinate_system}
            taken = {key: value for key, value in known.items() if key in source.format.options}
            adata = read_as(source.format, source.value, Options(images=images, **taken))
        check_counts(adata)
        if adata.n_obs < min_spots:
            raise ValueError(f"it has {adata.n_obs} spots, fewer than {min_spots}.")
        if grid_key in adata.uns:
            return adata
        sites = _without_expression(adata)
        compact_grid(sites, slide_key=slide_key or several_slides(adata), key_added=grid_key)
        result = _with_expression(adata, sites)
        if images:
            result.obsm.update(adata.obsm)
        return result


def several_slides(adata: AnnData) -> str | None:
    """Column that tells the slides of a source apart, where it has several."""
    key = note_of(adata).get("slide_key", "")
    return key if key and adata.obs[key].nunique() > 1 else None


def _without_expression(adata: AnnData) -> AnnData:
    """Observations and their coordinates alone, to be given a grid."""
    from anndata import AnnData

    uns = {key: adata.uns[key] for key in adata.uns if key in (_keys.SPATIAL, _keys.SOURCE)}
    return AnnData(obs=adata.obs.copy(), obsm=dict(adata.obsm), uns=uns)


def _with_expression(adata: AnnData, sites: AnnData) -> AnnData:
    """Observations with a grid, and the expression of the AnnData, which is shared."""
    from anndata import AnnData

    return AnnData(X=adata.X, obs=sites.obs, var=adata.var, uns=dict(sites.uns))
