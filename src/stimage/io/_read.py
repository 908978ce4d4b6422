from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stimage._paths import path_of
from stimage._validate import check_path, check_text, listing
from stimage.io._choice import Options

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def read(
    source: str | os.PathLike[str] | AnnData | SpatialData,
    *,
    layer: str | None = None,
    table: str | None = None,
    coordinate_system: str | None = None,
    bin_size: int | None = None,
    images: bool = True,
) -> AnnData:
    """Read a slide of any format that is known into an AnnData that is ready for :func:`stimage.pp.compact_grid`.

    The format is recognised by file names. The guide on formats lists what is read of each and what is left out.
    Sources are only read.

    Parameters
    ----------
    source
        A file or folder: h5ad (also of CELLxGENE, HEST-1k, SpatialCorpus-110M, or exported from R), zarr (AnnData or
        SpatialData), output of Space Ranger or a download of 10x (also one bin size, the segmented cells or the matrix
        itself), a table of STimage-1K4M (``…_count.csv`` or ``…_coord.csv``), a GEM file, or a folder of Xenium, CosMx or
        MERSCOPE. Or an AnnData or a SpatialData.
    layer
        Layer with raw counts, of an AnnData or of the table of a SpatialData. ``None`` takes those of ``X``
        or, where it holds none, the only other ones in a layer or ``.raw`` (of several that agree the one of most genes); of
        CELLxGENE ``.raw`` comes first.
    table
        Table of a SpatialData; ``None`` takes the only one.
    coordinate_system
        Coordinate system of a SpatialData; ``None`` takes ``"global"``, else the only one at full resolution.
    bin_size
        Side of the square bins in which molecules of a GEM file are added up, in spots of the chip (0.5 micrometres). ``None``
        takes 50.
    images
        Whether to read pictures of the tissue; scale factors and the path of the image are noted in any case.

    Returns
    -------
    AnnData
        A new AnnData, with

    ``X``
        Raw counts of genes (observations x genes).
    ``obsm["spatial"]``
        x and y, in the units of the source (float64, shape (n_obs, 2)), where it has coordinates.
    ``obs["array_row"]``, ``obs["array_col"]``
        Array positions, where the source has them. Those of HEST-1k and STimage-1K4M are checked against the coordinates
        and left out where they contradict these.
    ``obs["slide"]``, ``obs["donor"]``
        Name of the slide and who the tissue is from, where the source says so and has no such column.
    ``uns["spatial"]``
        One library for the slide: ``images``, ``scalefactors`` and ``metadata["source_image_path"]``, whichever there are.
    ``uns["stimage_source"]``
        The source note: ``format``, ``path``, what ``counts`` and ``coordinates`` were taken from, ``slide_key`` and
        ``donor_key`` (columns of ``obs``), ``slide``, ``donor``, ``tissue``, ``species``, ``technology`` and ``study`` (empty
        where unknown), and ``dropped``: how many observations or features were left out, by reason.

    Warns
    -----
    UserWarning
        Once, if counts or coordinates of an AnnData were found elsewhere than in ``X`` and ``obsm["spatial"]``; it says where.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or one that belongs to it is missing.
    ImportError
        If what reads the format is not installed: spatialdata, pyarrow for parquet files, or what opens the image.
    KeyError
        If a layer, table, coordinate system or coordinates are absent.
    TypeError
        If ``source`` is of another type.
    ValueError
        If the format is not known, an option does not apply to it, the path stands for several slides, there are no raw
        counts or several matrices of them that differ, or files contradict each other.

    Examples
    --------
    >>> import tempfile
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adata.write_h5ad(f"{folder}/section_1.h5ad")
    ...     slide = sti.io.read(f"{folder}/section_1.h5ad")
    >>> slide.uns["stimage_source"]["slide"], slide.uns["stimage_source"]["counts"]
    ('section_1', 'X')
    """
    from anndata import AnnData

    from stimage.io._anndata import tidy
    from stimage.io._registry import format_of, read_as

    for name, value in (("layer", layer), ("table", table), ("coordinate_system", coordinate_system)):
        if value is not None:
            check_text(name, value)
    options = Options(layer=layer, table=table, coordinate_system=coordinate_system, bin_size=bin_size, images=images)
    if isinstance(source, AnnData):
        _check_options(options, "AnnData", ("layer",))
        return tidy(source, None, options)
    if _is_spatialdata(source):
        from stimage.io._spatialdata import read_spatialdata

        _check_options(options, "SpatialData", ("layer", "table", "coordinate_system"))
        return read_spatialdata(source, None, options)
    check_path("source", source)
    path = path_of(source)
    format = format_of(path, "source")
    _check_options(options, format.name, format.options)
    return read_as(format, path, options, f"{str(path)!r}: ")


def _is_spatialdata(source: object) -> bool:
    return type(source).__name__ == "SpatialData" and hasattr(source, "tables")


def _check_options(options: Options, name: str, known: tuple[str, ...]) -> None:
    """Raise ``ValueError`` for options that would be without effect."""
    other = [option for option in options.given() if option not in known]
    if other:
        raise ValueError(f"`{other[0]}` does not apply to {name}, which takes {listing(known)}: leave it out.")
