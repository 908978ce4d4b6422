"""Outputs of Space Ranger and downloads of 10x: Visium, bins of Visium HD and its segmented cells.

Counts are read by scanpy. ``squidpy.read.visium`` and ``scanpy.read_visium`` are not used for the rest: they demand file names
without a prefix and both pictures, and know neither matrices in folders, nor positions in parquet files, nor segmented cells.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._validate import listing
from stimage.io._choice import Options
from stimage.io._note import add_note, drop_outside_tissue, library
from stimage.io._tenx import matrix_in, read_matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix", "filtered_feature_cell_matrix")
_CELLS = "cell_segmentations.geojson"
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_ANONYMOUS = ("outs", "spatial", "binned_outputs")
"""Folders that are called the same for every sample."""
_PROBES = "raw_probe_bc_matrix.h5"


@dataclass(frozen=True)
class _Output:
    """Files of one matrix and the folder with positions, scale factors and pictures that belongs to it."""

    matrix: Path
    prefix: str
    spatial: Path

    @property
    def positions(self) -> Path | None:
        names = [f"{prefix}{name}" for prefix in dict.fromkeys((self.prefix, "")) for name in _POSITIONS]
        return next((self.spatial / name for name in names if (self.spatial / name).is_file()), None)

    @property
    def cells(self) -> Path | None:
        path = self.matrix.parent / f"{self.prefix}{_CELLS}"
        return path if path.is_file() else None

    def file(self, name: str) -> Path | None:
        """A file of the folder ``spatial``, with or without the prefix."""
        paths = (self.spatial / f"{self.prefix}{name}", self.spatial / name)
        return next((path for path in paths if path.is_file()), None)


def is_space_ranger(path: Path) -> bool:
    """Whether a folder or a file is, or holds, a matrix of Space Ranger."""
    if path.is_file():
        return path.suffix == ".h5" and any(name in path.name for name in (*_MATRICES, _PROBES))
    return bool(_outputs(path) or _inner(path) or list(path.glob(f"*{_PROBES}")))


def read_space_ranger(path: Path, options: Options) -> AnnData:
    """Counts of genes, positions in pixels of the full-resolution image, and pictures where there are some."""
    output = _the_output(path)
    adata, dropped = read_matrix(output.matrix)
    if output.cells is not None:
        xy, array, inside = _centroids(adata, output.cells), None, np.ones(adata.n_obs, dtype=bool)
        place = f"{output.cells.name}, centroids"
    else:
        positions = _positions(adata, output)
        inside = drop_outside_tissue(positions["in_tissue"], f"Column 'in_tissue' of {output.positions.name!r}")
        dropped["spots outside of tissue (in_tissue is 0)"] = int((~inside).sum())
        xy = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
        array, place = positions[["in_tissue", _keys.ARRAY_ROW, _keys.ARRAY_COL]], output.positions.name
    adata = adata[inside].copy() if not inside.all() else adata
    adata.obsm[_keys.SPATIAL] = xy[inside]
    if array is not None:
        for column in array:
            adata.obs[column] = array[column].to_numpy()[inside].astype(np.int64)
    name = name_of_output(path)
    adata.uns[_keys.SPATIAL] = {name: _library(output, options.images)}
    add_note(
        adata,
        format="Space Ranger",
        path=path,
        counts=output.matrix.name,
        coordinates=place,
        dropped=dropped,
        slide=name,
        technology=_technology(adata.uns[_keys.SPATIAL][name], output),
    )
    return adata


def name_of_output(path: Path) -> str:
    """What identifies a sample: the prefix of its files, or the folder above those that are called the same everywhere."""
    output = _the_output(path)
    prefix = output.prefix.rstrip("_-.")
    folder = output.matrix.parent
    parts = [prefix] if prefix else []
    if re.fullmatch(r"square_\d+um|segmented_outputs", folder.name):
        parts.append(folder.name)
        folder = folder.parent
    while folder.name in _ANONYMOUS and folder.parent != folder:
        folder = folder.parent
    return "_".join([*([] if prefix else [folder.resolve().name]), *parts])


def files_of_output(path: Path) -> list[Path]:
    """What of an output determines the slide: its matrix, and all that lies beside its positions."""
    output = _the_output(path)
    files = sorted(output.matrix.iterdir()) if output.matrix.is_dir() else [output.matrix]
    files += [output.cells] if output.cells is not None else []
    return files + sorted(file for file in output.spatial.rglob("*") if file.is_file())


def _outputs(folder: Path) -> list[_Output]:
    """Matrices directly in a folder, those of spots under tissue before raw ones."""
    found = []
    for name in _MATRICES:
        for matrix, prefix in matrix_in(folder, name):
            spatial = [folder / f"{prefix}spatial", folder / "spatial", folder]
            found.append(_Output(matrix, prefix, next(path for path in spatial if path.is_dir())))
    return found


def _inner(folder: Path) -> list[Path]:
    """Folders of a sample that hold matrices, when it does not itself."""
    places = [folder / "outs", *sorted(folder.glob("binned_outputs/square_*um")), folder / "segmented_outputs"]
    places += sorted((folder / "outs").glob("binned_outputs/square_*um")) + [folder / "outs" / "segmented_outputs"]
    places += sorted(folder.glob("square_*um")) if folder.name == "binned_outputs" else []
    return [place for place in places if place.is_dir() and _outputs(place)]


def _the_output(path: Path) -> _Output:
    """The one output that a path stands for; raise ``ValueError`` where there are several or none."""
    if path.is_file():
        if path.name.endswith(_PROBES):
            _refuse_probes(path)
        outputs = [output for output in _outputs(path.parent) if output.matrix == path]
        return outputs[0]
    outputs = _outputs(path)
    if not outputs:
        inner = _inner(path)
        # Bins of one size may be all that was downloaded so far: which size is meant is never guessed.
        if len(inner) > 1 or (inner and inner[0].name != "outs"):
            names = [folder.relative_to(path).as_posix() for folder in inner]
            raise ValueError(
                f"{str(path)!r} has bins of several sizes, or bins and cells ({listing([folder.name for folder in inner])}): "
                f"pass the folder of one of them, e.g. {str(path / names[0])!r}."
            )
        if not inner:
            _refuse_probes(next(path.glob(f"*{_PROBES}")))
        outputs = _outputs(inner[0])
    prefixes = sorted({output.prefix for output in outputs})
    if len(prefixes) > 1:
        raise ValueError(
            f"{str(path)!r} has matrices of several samples ({listing([output.matrix.name for output in outputs])}): pass the "
            "file of one of them."
        )
    return outputs[0]


def _refuse_probes(path: Path) -> None:
    raise ValueError(
        f"{str(path)!r} has counts of probes, several of which belong to one gene: pass 'filtered_feature_bc_matrix.h5' of the "
        "same run, beside its folder 'spatial'."
    )


def _positions(adata: AnnData, output: _Output) -> pd.DataFrame:
    """Row of the positions of each barcode, checked."""
    import pandas as pd

    path = output.positions
    if path is None:
        packed = listing(sorted(file.name for file in output.matrix.parent.glob("*spatial*.tar*")))
        hint = f" Unpack {packed} first." if packed != "none" else ""
        raise ValueError(
            f"{str(output.matrix)!r} has no positions beside it: one of {listing(_POSITIONS)} is needed in "
            f"{str(output.matrix.parent / 'spatial')!r}.{hint}"
        )
    if path.suffix == ".parquet":
        try:
            positions = pd.read_parquet(path)
        except ImportError as error:
            raise ImportError(
                f"{str(path)!r} is a parquet file, which pandas reads with pyarrow: `pip install pyarrow`."
            ) from error
    else:
        with path.open() as file:
            has_names = file.readline().startswith("barcode")
        positions = pd.read_csv(path, header=0 if has_names else None)
        if positions.shape[1] == len(_COLUMNS) and not set(_COLUMNS) <= set(positions.columns):
            positions.columns = _COLUMNS  # the order has been the same since version 1, which wrote no names
    absent = [column for column in _COLUMNS if column not in positions]
    if absent:
        raise ValueError(f"{path.name!r} lacks columns {listing(absent)}; it has {listing(positions.columns)}.")
    positions = positions.set_index("barcode")
    if not positions.index.is_unique or not adata.obs_names.isin(positions.index).all():
        lost = adata.obs_names[~adata.obs_names.isin(positions.index)]
        raise ValueError(
            f"{path.name!r} does not have each barcode of {output.matrix.name!r} once ({len(lost)} of {adata.n_obs} are missing"
            f", e.g. {listing(lost, 2)}): are both of one sample and one bin size?"
        )
    return positions.loc[adata.obs_names]


def _centroids(adata: AnnData, path: Path) -> np.ndarray:
    """Centroid of each cell's outline (n_obs, 2) in pixels."""
    import shapely

    features = json.loads(path.read_text())["features"]
    outlines = {int(feature["properties"]["cell_id"]): feature["geometry"] for feature in features}
    numbers = adata.obs_names.str.extract(r"(?:cellid_)?0*(\d+)(?:-\d+)?$", expand=False)
    absent = [name for name, number in zip(adata.obs_names, numbers, strict=True) if not _known(number, outlines)]
    if absent:
        raise ValueError(
            f"{path.name!r} has no outline of {len(absent)} of {adata.n_obs} cells (e.g. {listing(absent, 3)}): is it of the "
            "same run as the matrix?"
        )
    shapes = shapely.from_geojson([json.dumps(outlines[int(number)]) for number in numbers])
    centres = shapely.centroid(shapes)
    return np.column_stack([shapely.get_x(centres), shapely.get_y(centres)])


def _known(number: Any, outlines: dict[int, Any]) -> bool:
    return isinstance(number, str) and int(number) in outlines


def _library(output: _Output, load: bool) -> dict[str, Any]:
    """Scale factors and pictures, whichever there are."""
    from stimage.data.images._open import open_image

    factors = output.file("scalefactors_json.json")
    entry = library(scalefactors=json.loads(factors.read_text()) if factors is not None else {})
    for rendering in ("hires", "lowres"):
        path = output.file(f"tissue_{rendering}_image.png") or output.file(f"tissue_{rendering}_image.jpg")
        # Without its scale factor a picture cannot be laid under the spots.
        if load and path is not None and f"tissue_{rendering}_scalef" in entry["scalefactors"]:
            source = open_image(path)
            entry["images"][rendering] = source.read(0, 0, 0, *source.sizes[0])
    return entry


def _technology(entry: dict[str, Any], output: _Output) -> str:
    if (
        output.cells is not None
        or "bin_size_um" in entry["scalefactors"]
        or output.matrix.parent.name.startswith("square_")
    ):
        return "Visium HD"
    return "Visium"
