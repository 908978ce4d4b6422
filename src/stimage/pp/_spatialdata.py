from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._pixels import to_rgb
from stimage._spatialdata import affine_matrix, check_spatialdata, load_spatialdata, read_image_element
from stimage._validate import check_text, listing
from stimage.pp._nearest import typical_distance

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

_LONGEST_SIDE = 2000


def from_spatialdata(
    sdata: SpatialData,
    *,
    table: str = "table",
    image: str | Mapping[str, str] | None = None,
    coordinate_system: str = "global",
) -> AnnData:
    """Take a table out of a SpatialData as an AnnData that the other functions work on.

    Parameters
    ----------
    sdata
        Tables, with the shapes or labels that they annotate and, if wanted, images.
    table
        Name of a table that annotates shapes (circles or polygons) or labels.
    image
        Name of the tissue image, or the name for each region, as the table's region key calls them. Its transformation to
        the coordinate system must be a scale and a translation. ``None`` takes no image.
    coordinate_system
        Where positions are given.

    Returns
    -------
    AnnData
        A copy of the table, with

    ``obsm["spatial"]``
        x and y of the centroid of each annotated shape or label in the coordinate system (float64, shape (n_obs, 2)).
    ``obs[region_key]``
        As in the table: the region of each observation, to be passed as ``slide_key``.
    ``uns["spatial"]``
        Only with ``image``, for each region that has one: ``images["hires"]``, the image from the origin of the coordinate
        system on (uint8 RGB, at most 2,000 pixels, white where there is none); ``scalefactors["tissue_hires_scalef"]``,
        its pixels for each unit of the coordinate system; ``scalefactors["spot_diameter_fullres"]``, the median diameter
        of the shapes (of a disc of their area) or, for labels, the median distance of the nearest centroids.

    What the table had under these keys before is replaced. Patches at full resolution come from
    :meth:`stimage.data.SlideImage.from_spatialdata`.

    Raises
    ------
    ImportError
        If spatialdata is not installed.
    KeyError
        If the table, a region, the image or the coordinate system is absent.
    TypeError
        If ``sdata`` is not a SpatialData, or the table annotates points.
    ValueError
        If the table annotates nothing, an observation has no shape or label, or the image is rotated, sheared or entirely
        on the negative side of the coordinate system.

    Examples
    --------
    >>> import stimage as sti
    >>> from spatialdata.datasets import blobs
    >>> adata = sti.pp.from_spatialdata(blobs(), image="blobs_image")
    >>> adata.obsm["spatial"].shape
    (26, 2)
    """
    check_spatialdata(sdata, coordinate_system)
    check_text("table", table)
    if table not in sdata.tables:
        raise KeyError(f"`table`={table!r} is not a table of the SpatialData: {listing(sdata.tables, 30)}.")
    adata = sdata.tables[table]
    region_key, instance_key = annotation_keys(adata, table)
    regions = adata.obs[region_key].astype(str).to_numpy()
    names = list(dict.fromkeys(regions))
    images = _image_of_regions(image, names)

    spatial = np.empty((adata.n_obs, 2))
    diameters = {}
    for name in names:
        members = np.flatnonzero(regions == name)
        spatial[members] = _centroids(sdata, name, adata.obs[instance_key].iloc[members], coordinate_system)
        if name in images:
            diameters[name] = _diameter(sdata, name, spatial[members], coordinate_system)
    libraries = {
        name: _library(sdata, images[name], coordinate_system, diameters[name]) for name in names if name in images
    }

    adata = adata.copy()
    adata.obsm[_keys.SPATIAL] = spatial
    # Images that the table had belong to other coordinates.
    adata.uns.pop("spatial", None)
    if libraries:
        adata.uns["spatial"] = libraries
    return adata


def annotation_keys(adata: AnnData, table: str) -> tuple[str, str]:
    attributes = adata.uns.get("spatialdata_attrs") or {}
    keys = tuple(str(attributes.get(key, "")) for key in ("region_key", "instance_key"))
    if not all(key in adata.obs for key in keys):
        raise ValueError(
            f"The table {table!r} annotates no shapes or labels: adata.uns['spatialdata_attrs'] must name columns of obs "
            "as 'region_key' and 'instance_key', see `spatialdata.models.TableModel.parse`."
        )
    return keys


def _image_of_regions(image: str | Mapping[str, str] | None, regions: list[str]) -> dict[str, str]:
    if image is None:
        return {}
    if not isinstance(image, Mapping):
        return dict.fromkeys(regions, image)
    unknown = [name for name in image if name not in regions]
    if unknown:
        raise KeyError(f"`image` has regions {listing(unknown)} that the table has not; it has {listing(regions)}.")
    return dict(image)


def _centroids(sdata: SpatialData, region: str, instances: Any, coordinate_system: str) -> NDArray[np.float64]:
    if region not in sdata:
        raise KeyError(f"The region {region!r} that the table annotates is not in the SpatialData.")
    if region not in sdata.shapes and region not in sdata.labels:
        raise TypeError(
            f"The region {region!r} must be shapes or labels: points have no names that a table can rely on."
        )
    affine_matrix(sdata, region, coordinate_system)  # an error that says which coordinate systems there are
    with warnings.catch_warnings():
        # Barcodes need not be sorted: positions are looked up by name.
        warnings.filterwarnings("ignore", message="The index of the dataframe is not monotonic")
        centroids = load_spatialdata().get_centroids(sdata[region], coordinate_system=coordinate_system).compute()
    absent = ~instances.isin(centroids.index).to_numpy()
    if absent.any():
        raise ValueError(
            f"{absent.sum()} observations annotate instances of {region!r} that are not there (e.g. "
            f"{listing(instances[absent], 3)}): remove them, or match the table first (`spatialdata.match_table_to_element`)."
        )
    return centroids.loc[instances.to_numpy(), ["x", "y"]].to_numpy(dtype=np.float64)


def _diameter(sdata: SpatialData, region: str, centroids: NDArray[np.float64], coordinate_system: str) -> float:
    if region in sdata.shapes:
        shapes = sdata[region]
        area = np.pi * shapes["radius"] ** 2 if "radius" in shapes else shapes.geometry.area
        enlarged = abs(np.linalg.det(affine_matrix(sdata, region, coordinate_system)[:2, :2]))
        return float(2 * np.sqrt(np.median(area) * enlarged / np.pi))
    apart = typical_distance(centroids)
    if not apart:
        raise ValueError(f"The region {region!r} has labels at one position only: take no image (`image=None`).")
    return apart


def _library(sdata: SpatialData, image: str, coordinate_system: str, diameter: float) -> dict[str, Any]:
    """An entry of ``uns["spatial"]``, whose image starts where the coordinate system does."""
    element = read_image_element(sdata, image, coordinate_system)
    finest = np.array(element.levels[0].shape[1::-1])
    end = np.array(element.origin) + element.scale * finest
    if (end <= 0).any():
        raise ValueError(
            f"The image {image!r} ends at {end.round(1).tolist()} in {coordinate_system!r}, so none of it is on the "
            "positive side: choose another `coordinate_system`."
        )
    # The coarsest level that is still fine enough; it is reduced by a whole number, so that the scale is exact.
    wanted = end.max() / _LONGEST_SIDE
    units = [element.scale * float(np.round(finest[0] / level.shape[1])) for level in element.levels]
    unit, level = max(
        ((unit, level) for unit, level in zip(units, element.levels, strict=True) if unit <= wanted),
        key=lambda pair: pair[0],
        default=(units[0], element.levels[0]),
    )
    factor = max(1, int(np.ceil(wanted / unit)))
    unit *= factor
    pixels = to_rgb(_reduced(level, factor))
    shift = np.rint(np.array(element.origin) / unit).astype(int)
    before, skipped = np.maximum(shift, 0), np.maximum(-shift, 0)
    pixels = pixels[skipped[1] :, skipped[0] :]
    pixels = np.pad(pixels, ((before[1], 0), (before[0], 0), (0, 0)), constant_values=255)
    return {
        "images": {"hires": np.ascontiguousarray(pixels)},
        "scalefactors": {"tissue_hires_scalef": 1 / unit, "spot_diameter_fullres": diameter},
    }


def _reduced(level: Any, factor: int) -> NDArray[Any]:
    """A level as an array, each pixel the mean over ``factor`` x ``factor`` of its own, computed block by block."""
    import dask.array

    if factor == 1:
        return np.asarray(level)
    means = dask.array.coarsen(np.mean, level, {0: factor, 1: factor}, trim_excess=True).compute()
    return np.rint(means).astype(level.dtype) if level.dtype.kind in "ui" else means.astype(level.dtype)
