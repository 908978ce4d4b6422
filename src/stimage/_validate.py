"""Checks of what a user passes in. Each error names the parameter, says what was found and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _keys
from stimage._coordinates import find_coordinates
from stimage._count_rows import is_backed, is_by_gene, value_blocks
from stimage._counts import LARGEST_HALF, other_counts, stored_matrix
from stimage._messages import listing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

LAYER_ADVICE = "pass the raw counts with `layer=`"
SETUP_ADVICE = "say where raw counts are with `stimage.models.STImage.setup_anndata(adata, layer=...)`"


def check_anndata(adata: object, parameter: str = "adata") -> None:
    """Raise ``TypeError`` unless ``adata`` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(f"`{parameter}` must be an AnnData, found {type(adata).__name__}.")


def check_anndatas(adatas: AnnData | Sequence[AnnData], parameter: str = "adatas") -> list[AnnData]:
    """Return one AnnData or several as a list; raise ``TypeError`` for anything else and for an empty list."""
    adatas = list(adatas) if isinstance(adatas, list | tuple) else [adatas]
    if not adatas:
        raise TypeError(f"`{parameter}` must be an AnnData or a list of them, found an empty list.")
    for adata in adatas:
        check_anndata(adata, parameter)
    return adatas


def check_copy(adata: AnnData, copy: bool) -> None:
    """Raise ``ValueError`` where a copy of a backed AnnData is asked for, which would be another file."""
    if copy and adata.isbacked:
        raise ValueError(
            "`copy`=True makes a copy in memory, and `adata` is backed: leave it out, results are then written to the backed "
            "object in memory and not to its file, or load it (`adata.to_memory()`)."
        )


def check_choice(parameter: str, value: object, options: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of the strings in ``options``."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{parameter}` must be one of {listing(options, len(options))}, found {value!r}.")


def check_keys(parameter: str, options: object, known: Iterable[str]) -> dict[str, Any]:
    """Return a group of options as a dict, empty for ``None``; raise ``TypeError`` for a key that is not known."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"`{parameter}` must be a dict of options, found {type(options).__name__}.")
    known = list(dict.fromkeys(known))
    for name in options:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise TypeError(
                f"`{parameter}` has no option {str(name)[:80]!r}{meant} It takes {listing(known, len(known))}."
            )
    return dict(options)


def keyword_names(function: Any) -> list[str]:
    """Names of the arguments that a function or method takes by name."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return [name for name, one in signature(function).parameters.items() if one.kind in kinds and name != "self"]


def check_text(parameter: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a string."""
    if not isinstance(value, str):
        raise TypeError(f"`{parameter}` must be a string, found {type(value).__name__}: pass the name of one key.")


def check_path(parameter: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a path."""
    if not isinstance(value, str | PathLike):
        raise TypeError(f"`{parameter}` must be a path, found {type(value).__name__}.")


def check_key_added(value: object) -> None:
    """Raise unless ``value`` can be a key of an AnnData that is written to a file."""
    if not isinstance(value, str):
        raise TypeError(f"`key_added` must be a string, found {type(value).__name__}.")
    # Files make a path of a key; zarr takes a backslash for a slash as well.
    if not value.strip(".") or set(value) & set("/\\\0"):
        raise ValueError(
            f"`key_added` must be a non-empty string without '/' or a backslash, found {value!r}: files need such keys."
        )


def check_size(adata: AnnData, *, n_obs: int = 2, n_vars: int = 2) -> None:
    """Raise ``ValueError`` when there are fewer observations or genes than needed."""
    if adata.n_obs < n_obs:
        raise ValueError(
            f"`adata` has {adata.n_obs} observations, at least {n_obs} are needed: check earlier filtering."
        )
    if adata.n_vars < n_vars:
        raise ValueError(f"`adata` has {adata.n_vars} genes, at least {n_vars} are needed: check earlier filtering.")


def check_unique_names(adata: AnnData, *, genes: bool = False) -> None:
    """Raise ``ValueError`` for duplicated observation names (and gene names if ``genes``)."""
    axes = [("obs_names", adata.obs_names)] + ([("var_names", adata.var_names)] if genes else [])
    for axis, names in axes:
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            raise ValueError(
                f"`adata.{axis}` has {len(repeated)} repeated names (e.g. {listing(repeated, 3)}): "
                f"call `adata.{axis}_make_unique()` first."
            )


def check_obs_key(adata: AnnData, key: object, parameter: str) -> pd.Series:
    """Return ``adata.obs[key]``; raise ``KeyError`` with the available columns when there is none."""
    check_text(parameter, key)
    if key not in adata.obs.columns:
        raise KeyError(f"`{parameter}`={key!r} is not in adata.obs; available: {listing(adata.obs.columns, 30)}.")
    return adata.obs[key]


def check_spatial(adata: AnnData, spatial_key: str) -> NDArray[np.float64]:
    """Return the (n_obs, 2) coordinates under ``spatial_key``, see :func:`stimage._coordinates.find_coordinates`; finite."""
    coordinates, where = find_coordinates(adata, spatial_key)
    bad = np.flatnonzero(~np.isfinite(coordinates).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{where} (`spatial_key`) has NaN or infinite coordinates for {len(bad)} observations "
            f"(e.g. {listing(adata.obs_names[bad], 3)}): remove these observations first."
        )
    return coordinates


def slide_codes(adata: AnnData, slide_key: str | None) -> tuple[list[str], NDArray[np.intp]]:
    """Names of the slides in an AnnData and, per observation, the position of its slide among them.

    Without ``slide_key`` everything is one slide called ``"slide"``. Slides come in the order of the categories, or
    sorted; categories without observations are left out.
    """
    if slide_key is None:
        return ["slide"], np.zeros(adata.n_obs, dtype=np.intp)
    labels = check_obs_key(adata, slide_key, "slide_key")
    missing = np.flatnonzero(labels.isna().to_numpy())
    if len(missing):
        raise ValueError(
            f"adata.obs[{slide_key!r}] (`slide_key`) is missing for {len(missing)} observations "
            f"(e.g. {listing(adata.obs_names[missing], 3)}): label them or remove them."
        )
    categories = labels.astype("category").cat.remove_unused_categories().cat
    names = [str(name) for name in categories.categories]
    if len(set(names)) < len(names):
        raise ValueError(
            f"adata.obs[{slide_key!r}] (`slide_key`) has different labels that read the same as text "
            f"({listing(names)}): make it a column of strings."
        )
    return names, categories.codes.to_numpy().astype(np.intp)


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; newer versions of anndata list ``X`` among them, under ``None``."""
    return [name for name in adata.layers.keys() if name is not None]


def check_counts(
    adata: AnnData, layer: str | None = None, *, advice: str = LAYER_ADVICE, backed: bool = False
) -> NDArray[Any] | sparse.csr_matrix | sparse.csc_matrix | Any:
    """Return the matrix of raw counts; raise ``ValueError`` unless finite, non-negative and whole numbers.

    ``advice`` says how the caller is told where the counts are. Raw counts elsewhere in the AnnData are named. With
    ``backed`` the counts may also be in the file of a backed AnnData, for a caller that reads them by
    :mod:`stimage._count_rows`.
    """
    if layer is not None:
        check_text("layer", layer)
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"`layer`={layer!r} is not in adata.layers; available: {listing(layer_names(adata), 30)}. "
            f"{other_counts(adata, None)}".rstrip()
        )
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        raise ValueError(
            f"adata.X is empty: {advice} (available layers: {listing(layer_names(adata), 30)}). "
            f"{other_counts(adata, layer)}".rstrip()
        )
    if is_backed(counts) and is_by_gene(counts):
        raise TypeError(
            f"{where} is in a file gene by gene (CSC), and is read observation by observation: load it "
            "(`adata.to_memory()`), or write a file with `adata.X.tocsr()`."
        )
    in_memory = isinstance(counts, np.ndarray) or (sparse.issparse(counts) and counts.format in ("csr", "csc"))
    if not in_memory and not (backed and is_backed(counts)):
        raise TypeError(
            f"{where} must be a numpy array or a CSR or CSC matrix in memory, found {type(counts).__name__}: "
            "convert it (`adata.to_memory()`, `.tocsr()`) first, or read a backed AnnData into a corpus of chosen genes "
            "(`stimage.data.Corpus.from_anndata`)."
        )
    if counts.dtype.kind not in "iufb":
        raise TypeError(f"{where} must hold numbers, found dtype {counts.dtype}.")
    if counts.dtype.kind in "ub":
        return counts

    def other() -> str:
        return f"{advice} (available layers: {listing(layer_names(adata), 30)}). {other_counts(adata, layer)}".rstrip()

    for block in value_blocks(counts):
        low, high = block.min(), block.max()
        if not np.isfinite(low) or not np.isfinite(high):
            raise ValueError(
                f"{where} has NaN or infinite values{_missing_genes(counts)}: remove or repair these entries, or {other()}"
            )
        if low < 0:
            raise ValueError(f"{where} has negative values (e.g. {low:g}), raw counts are needed: {other()}")
        if counts.dtype.kind == "f":
            fraction = block[block != np.rint(block)]
            if len(fraction):
                kind = "log-transformed" if high < 30 else "normalised"
                raise ValueError(
                    f"{where} holds values that are not whole numbers (e.g. {fraction[0]:.4g}) and looks {kind}, "
                    f"raw counts are needed: {other()}"
                )
        if counts.dtype == np.float16 and high > LARGEST_HALF:
            raise ValueError(
                f"{where} is in half precision (float16), which skips whole numbers above {LARGEST_HALF}, and has values up "
                f"to {high:g}: these are no longer the counts that were measured. Read them from the original file."
            )
    return stored_matrix(adata, layer)


def _missing_genes(counts: NDArray[Any] | sparse.csr_matrix | sparse.csc_matrix) -> str:
    """What an outer join leaves in a dense matrix: genes without values for whole slides."""
    if sparse.issparse(counts):
        return ""
    missing = np.isnan(counts)
    genes = missing.any(axis=0)
    if not genes.any() or missing.all(axis=0).any() or np.isinf(counts).any():
        return ""
    return (
        f" for {int(genes.sum())} genes in up to {int(missing.sum(axis=0).max())} observations, as an outer join leaves them: "
        "fill with zeros (`fill_value=0` of `anndata.concat`), genes without a count on a slide are taken as not measured "
        "there"
    )


def check_grid(adata: AnnData, grid_key: str) -> pd.DataFrame:
    """Return the table of slides of a compact grid; raise ``KeyError`` when there is none, or it was cut apart."""
    check_text("grid_key", grid_key)
    columns = (_keys.grid_row(grid_key), _keys.grid_col(grid_key))
    if not has_grid(adata, grid_key) or any(column not in adata.obs for column in columns):
        raise KeyError(
            f"No compact grid: adata.uns[{grid_key!r}], adata.obs[{columns[0]!r}] and adata.obs[{columns[1]!r}] are "
            f"needed (found uns keys {listing(adata.uns.keys(), 30)}): run `stimage.pp.compact_grid(adata)` first."
        )
    for column in columns:
        if adata.obs[column].dtype.kind not in "iuf":
            raise TypeError(
                f"adata.obs[{column!r}] must hold rows or columns of a grid, found dtype {adata.obs[column].dtype}: run "
                "`stimage.pp.compact_grid` again."
            )
    summary = adata.uns[grid_key].get("summary")
    made_of = (
        int(summary["n_observations"].sum()) if "n_observations" in getattr(summary, "columns", ()) else adata.n_obs
    )
    if made_of < adata.n_obs:
        raise ValueError(
            f"adata.uns[{grid_key!r}] is the grid of {made_of} observations, `adata` has {adata.n_obs}: it is that of one part of "
            "what was put together, run `stimage.pp.compact_grid(adata, slide_key=...)` again."
        )
    return adata.uns[grid_key]["slides"]


def has_grid(adata: AnnData, grid_key: str) -> bool:
    """Whether ``uns`` has the parameters and the slides of a compact grid."""
    grid = adata.uns.get(grid_key)
    if not isinstance(grid, Mapping) or not {"params", "slides"} <= set(grid):
        return False
    params, slides = grid["params"], grid["slides"]
    if not isinstance(params, Mapping) or not {"slide_key", "spatial_key"} <= set(params):
        return False
    return {"layout", "parity"} <= set(getattr(slides, "columns", ())) and len(slides) > 0


def grid_sites(adata: AnnData, grid_key: str) -> NDArray[np.int64]:
    """Row and column of each observation on a compact grid (n_obs, 2); raise ``ValueError`` unless all have a site."""
    check_grid(adata, grid_key)
    columns = [_keys.grid_row(grid_key), _keys.grid_col(grid_key)]
    sites = adata.obs[columns].to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~(np.isfinite(sites) & (sites >= 0) & (sites == np.rint(sites))).all(axis=1))
    if len(bad):
        raise ValueError(
            f"adata.obs[{columns[0]!r}] and adata.obs[{columns[1]!r}] of {len(bad)} observations (e.g. "
            f"{listing(adata.obs_names[bad], 3)}) are no sites: run `stimage.pp.compact_grid` again."
        )
    return sites.astype(np.int64)


def notes_of(adata: AnnData) -> dict[str, Any]:
    """A copy of ``uns["stimage"]``; empty when there is none yet."""
    notes = adata.uns.get(_keys.STIMAGE, {})
    setup = notes.get("setup", {}) if isinstance(notes, Mapping) else {}
    for where, found in ((f"adata.uns[{_keys.STIMAGE!r}]", notes), (f"adata.uns[{_keys.STIMAGE!r}]['setup']", setup)):
        if not isinstance(found, Mapping):
            raise ValueError(f"{where} holds a {type(found).__name__} that stimage did not write: give it another key.")
    return dict(notes)


def genes_are_ensembl(genes: Iterable[str]) -> bool:
    """Whether most gene names are Ensembl ids."""
    ensembl = [re.match(r"ENS[A-Z]*G\d+", str(gene)) is not None for gene in genes]
    return bool(np.mean(ensembl) > 0.5)


def check_positive(parameter: str, value: object, *, smallest: int = 1) -> None:
    """Raise unless ``value`` is an integer that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{parameter}` must be an integer, found {type(value).__name__}.")
    if value < smallest:
        raise ValueError(f"`{parameter}` must be at least {smallest}, found {value}.")


def positive_number(where: str, value: object) -> float:
    """A positive finite number that something outside of a call holds; raise ``ValueError`` for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{where} must be a positive number, found {value!r}: correct or remove it.")
    return number


def check_seed(seed: object) -> None:
    """Raise unless ``seed`` is one that numpy, torch and scikit-learn all take."""
    check_positive("seed", seed, smallest=0)
    if seed >= 2**32:
        raise ValueError(f"`seed` must be below 2**32, found {seed}.")


def check_range(parameter: str, value: object, low: float, high: float) -> None:
    """Raise unless ``value`` is a number strictly between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"`{parameter}` must be a number, found {type(value).__name__}.")
    if not low < value < high:
        raise ValueError(f"`{parameter}` must be between {low} and {high}, found {value}.")


def check_share(parameter: str, value: object) -> None:
    """Raise unless ``value`` is a number between 0 and 1; 0 is allowed."""
    if isinstance(value, bool) or value != 0:
        check_range(parameter, value, 0, 1)


def check_model(model: object, kind: type) -> None:
    """Raise ``TypeError`` unless ``model`` is of a kind."""
    if not isinstance(model, kind):
        raise TypeError(
            f"`model` must be a stimage.models.{kind.__name__}, found {type(model).__name__}: train one with "
            "`stimage.tl.pretrain(adata)` or load one."
        )


def check_representation(adata: AnnData, use_rep: str) -> NDArray[Any]:
    """Return the vectors in ``adata.obsm[use_rep]``, two-dimensional and finite; single precision stays single."""
    check_text("use_rep", use_rep)
    if use_rep not in adata.obsm:
        raise KeyError(
            f"`use_rep`={use_rep!r} is not in adata.obsm; available: {listing(adata.obsm.keys(), 30)}. Run "
            "`stimage.tl.embed(adata)` first."
        )
    try:
        vectors = adata.obsm[use_rep]
        vectors = np.asarray(vectors.toarray() if sparse.issparse(vectors) else vectors)
        vectors = vectors if vectors.dtype == np.float32 else vectors.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"adata.obsm[{use_rep!r}] (`use_rep`) must hold numbers: {error}.") from error
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(
            f"adata.obsm[{use_rep!r}] (`use_rep`) must have one row per observation and at least one column, found "
            f"shape {vectors.shape}: pass the key of an embedding."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ValueError(
            f"adata.obsm[{use_rep!r}] (`use_rep`) has NaN or infinite values for {len(bad)} observations "
            f"(e.g. {listing(adata.obs_names[bad], 3)}): embed them again or remove them."
        )
    return vectors
