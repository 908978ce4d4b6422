from __future__ import annotations

from typing import TYPE_CHECKING

from stimage import _keys, _validate, pretrained
from stimage._settings import seed_of
from stimage.models import STImage
from stimage.models._setup import setup_of, with_layer
from stimage.models.regions._holes import fill_holes as filled_holes
from stimage.models.regions._holes import holes_anndata

if TYPE_CHECKING:
    from anndata import AnnData


def fill_holes(
    adata: AnnData,
    model: STImage | None = None,
    *,
    layer: str | None = None,
    context: int = 8,
    interval: float | None = None,
    seed: int | None = 0,
    accelerator: str = "auto",
    device: int | str = "auto",
    key_added: str = _keys.HOLES,
) -> AnnData:
    """Predict expression where a slide has none: sites that tissue encloses, and observations without counts.

    A site of the grid is a hole if it has no observation and no path of empty neighbouring sites leads from it to the edge of
    the grid. All holes are predicted together, like the region of :func:`reconstruct_region`. Since sites without an
    observation have no row in ``adata``, the result is an AnnData of its own, and ``adata`` stays as it is.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`.
    model
        A trained model. By default the checkpoint that ships with the package, see :func:`stimage.pretrained.load`.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    context, interval, seed, accelerator, device
        As in :func:`reconstruct_region`.
    key_added
        Key of the parameters; name of the layers with bounds.

    Returns
    -------
    AnnData
        One row per hole, over the genes of ``adata`` that the model knows; none if there are no holes. Observations without
        counts keep their name, other sites are called ``hole_<row>_<column>``, after the slide's name if there are several.

    ``X``
        Predicted log1p of counts per 10,000 (float32).
    ``layers["stimage_holes_lower"]``, ``layers["stimage_holes_upper"]``
        With ``interval``: its bounds.
    ``obs["grid_row"]``, ``obs["grid_col"]``
        Site, and the slide under the slide key of the grid.
    ``obs["is_observation"]``
        Whether the row is an observation of ``adata``.
    ``obsm["spatial"]``
        Coordinates: those of the observation, or interpolated on the lattice.
    ``uns["grid"]``, ``uns["stimage_holes"]``
        The grid of ``adata``, and ``params``.

    Raises
    ------
    KeyError
        If there is no grid, or no coordinates.
    ValueError
        If the grid has ``layout="rank"``, whose empty sites are not holes, or ``interval`` is not between 0 and 1, or
        there is no such device.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> torn = adata[~(adata.obs["grid_row"].between(9, 10) & adata.obs["grid_col"].between(9, 10))].copy()
    >>> holes = sti.tl.fill_holes(torn, model)
    >>> {"hole_9_9", "hole_9_10", "hole_10_9", "hole_10_10"} <= set(holes.obs_names)
    True
    """
    _validate.check_anndata(adata)
    if model is not None:
        _validate.check_model(model, STImage)
    _validate.check_key_added(key_added)
    seed = seed_of(seed)
    setup = setup_of(adata)
    grid_key = setup["grid_key"]
    _validate.check_grid(adata, grid_key)
    grid = adata.uns[grid_key]["params"]
    spatial_key, slide_key = str(grid["spatial_key"]), setup["slide_key"] or str(grid["slide_key"])
    coordinates = _validate.check_spatial(adata, spatial_key)
    model = pretrained.load() if model is None else model
    counted = with_layer(adata, layer)
    where = {"accelerator": accelerator, "device": device}
    with model.filler(context=context, interval=interval, seed=seed, **where) as fill:
        slides = filled_holes(counted, model.vocabulary, coordinates, fill)

    bounds = () if interval is None else (_keys.region_lower(key_added), _keys.region_upper(key_added))
    found = holes_anndata(adata, slides, model.vocabulary, grid_key=grid_key, slide_key=slide_key, bounds=bounds)
    params = {"context": context, "interval": interval or 0.0, "seed": seed}
    found.uns[key_added] = {"params": {**model.provenance(counted), **params}}
    return found
