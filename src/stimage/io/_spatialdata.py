"""SpatialData as spatialdata-io writes it: the table that is meant, and the coordinate system that its shapes or labels are in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage._spatialdata import load_spatialdata
from stimage._validate import listing
from stimage.io._anndata import tidy
from stimage.io._choice import Options, raw_counts, say_what_was_taken
from stimage.io._note import add_note

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_FIELDS = "fov"
"""Region key of CosMx: its regions are fields of view of one slide."""
_GLOBAL = "global"
_DOWNSCALED = "downscaled_"


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return path.is_dir() and (
        path.suffix == ".zarr" or any((path / name).is_file() for name in (".zgroup", "zarr.json"))
    )


def read_zarr_store(path: Path, options: Options) -> AnnData:
    """An AnnData or a SpatialData in a zarr store."""
    import zarr

    root = zarr.open_group(path, mode="r")
    if root.attrs.get("encoding-type") == "anndata":
        from anndata import read_zarr

        return tidy(read_zarr(path), path, options)
    if "tables" not in root:
        raise ValueError(f"it is neither an AnnData nor a SpatialData; it has {listing(root.keys(), 5)}.")
    parts = ("tables", "shapes", "labels") + (("images",) if options.images else ())
    return read_spatialdata(load_spatialdata().read_zarr(path, selection=parts), path, options)


def read_spatialdata(sdata: SpatialData, path: Path | None, options: Options) -> AnnData:
    """Counts of a table, and the centroids of the regions that it annotates."""
    from stimage.pp._spatialdata import annotation_keys, from_spatialdata

    table = options.table if options.table is not None else _only_table(sdata)
    if table not in sdata.tables:
        raise KeyError(f"`table`={table!r} is not a table of the SpatialData: {listing(sdata.tables, 30)}.")
    region_key, _ = annotation_keys(sdata.tables[table], table)
    regions = list(dict.fromkeys(sdata.tables[table].obs[region_key].astype(str)))
    system = options.coordinate_system or _only_system(sdata, regions, table)
    image = _only_image(sdata, system) if options.images else None
    adata = from_spatialdata(sdata, table=table, coordinate_system=system, image=image)
    counts, var, where = raw_counts(adata, options.layer)
    say_what_was_taken(where, "", options)
    adata = _with_counts(adata, counts, var)
    add_note(
        adata,
        format="SpatialData",
        path=path,
        counts=f"table {table!r}, {where}",
        coordinates=f"centroids of {listing(regions, 3)} in {system!r}",
        slide_key=region_key if len(regions) > 1 and region_key != _FIELDS else "",
        slide=path.name.removesuffix(".zarr") if path is not None else regions[0],
    )
    return adata


def _with_counts(adata: AnnData, counts: Any, var: Any) -> AnnData:
    from stimage.io._anndata import assemble

    return adata if counts is adata.X else assemble(adata, counts, var)


def _only_table(sdata: SpatialData) -> str:
    tables = list(sdata.tables)
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise ValueError(
            "The SpatialData has no table: count molecules in cells or bins first, see `SpatialData.aggregate`."
        )
    raise ValueError(f"The SpatialData has {len(tables)} tables: pass one of {listing(tables, 30)} as `table=`.")


def _only_system(sdata: SpatialData, regions: list[str], table: str) -> str:
    """The coordinate system that all regions are in, at full resolution."""
    from spatialdata.transformations import get_transformation

    known: dict[str, list[str]] = {}
    for region in regions:
        if region not in sdata:
            raise KeyError(
                f"The table {table!r} annotates {region!r}, which is not in the SpatialData: it has "
                f"{listing([*sdata.shapes, *sdata.labels], 30)}."
            )
        known[region] = list(get_transformation(sdata[region], get_all=True))
    shared = [name for name in known[regions[0]] if all(name in systems for systems in known.values())]
    if _GLOBAL in shared:
        return _GLOBAL
    full = [name for name in shared if _DOWNSCALED not in name]
    if len(full) == 1:
        return full[0]
    each = ", ".join(f"{region!r}: {listing(systems)}" for region, systems in known.items())
    raise ValueError(
        f"No one coordinate system of the regions of the table {table!r} can be told to be meant ({each}): pass "
        "`coordinate_system=`."
    )


def _only_image(sdata: SpatialData, system: str) -> str | None:
    """The one RGB image that lies in a coordinate system unturned; ``None`` where there is none or several."""
    from stimage._spatialdata import read_image_element

    found = []
    for name in sdata.images:
        try:
            element = read_image_element(sdata, name, system)
        except (KeyError, ValueError):
            continue
        if element.levels[0].shape[2] in (3, 4) and element.levels[0].dtype == "uint8":
            found.append(name)
    return found[0] if len(found) == 1 else None
