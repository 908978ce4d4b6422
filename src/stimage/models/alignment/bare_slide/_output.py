"""An AnnData of what was predicted of a slide without spots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys
from stimage._paths import path_of
from stimage.data import SlideImage
from stimage.models._devices import find_device
from stimage.models.alignment.bare_slide._places import predict_places, tissue_lattice

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models._stalign import STAlign
    from stimage.models.alignment._prediction import PredictionMethod

_PICTURE = 2000
"""Longest side of the picture that comes with the predictions, in pixels."""
_UNNAMED = "slide"


def predicted_slide(
    model: STAlign,
    image: Any,
    *,
    micrometres_per_pixel: float,
    pitch: float | None,
    spot_distance: float | None,
    tissue: str,
    method: PredictionMethod,
    n_neighbors: int,
    key_added: str,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> AnnData:
    """Predict expression on a lattice over the tissue of an image; see :func:`stimage.tl.predict_expression`."""
    from anndata import AnnData

    from stimage.pp import compact_grid

    find_device(accelerator, device)
    if spot_distance is None:
        spot_distance = model.patch_scale.spot_distance
    if spot_distance is None:
        raise ValueError(
            "`spot_distance` is needed: the grids of the training slides do not know how many micrometres are between their "
            "spots (100 on Visium, 200 on the first arrays of Spatial Transcriptomics)."
        )
    pitch = spot_distance if pitch is None else pitch
    slide = image if isinstance(image, SlideImage) else SlideImage(image)
    if slide.scale != 1 or slide.origin != (0.0, 0.0):
        raise ValueError(
            "`image` has a scale or an origin: pass the file or the array, and `micrometres_per_pixel` of it."
        )
    lattice = tissue_lattice(slide, pitch / micrometres_per_pixel, everywhere=tissue == "all")
    options = {"method": method, "n_neighbors": n_neighbors, "accelerator": accelerator, "device": device}
    predicted = predict_places(model, slide, lattice, spot_distance / micrometres_per_pixel, **options)
    rows, columns = lattice.sites.T
    order = np.lexsort([columns, rows])
    names = [f"place-{row}-{column}" for row, column in lattice.sites[order]]
    library = path_of(image).name.partition(".")[0] if isinstance(image, str | Path) else _UNNAMED
    obs = pd.DataFrame(
        {
            _keys.ARRAY_ROW: rows[order],
            _keys.ARRAY_COL: columns[order],
            "tissue": lattice.share[order].astype(np.float32),
        },
        index=names,
    )
    # What is predicted is no counts: it lies in the layer, and X says that nothing was measured.
    adata = AnnData(
        sparse.csr_matrix((len(names), len(model.genes)), dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(model.genes, dtype=object)),
        obsm={_keys.SPATIAL: lattice.centres[order]},
        layers={key_added: predicted[order]},
    )
    adata.uns[_keys.SPATIAL] = {library: _library(image, slide, lattice, micrometres_per_pixel)}
    compact_grid(adata, layout="square", micrometres_per_unit=micrometres_per_pixel)
    adata.uns[_keys.STIMAGE] = {
        key_added: {
            **model.provenance(adata),
            "method": method,
            "n_neighbors": n_neighbors,
            "image_sha256": slide.fingerprint,
            "micrometres_per_pixel": float(micrometres_per_pixel),
            "pitch": float(pitch),
            "spot_distance": float(spot_distance),
            "tissue": tissue,
        }
    }
    return adata


def _library(image: Any, slide: SlideImage, lattice: Any, micrometres_per_pixel: float) -> dict[str, Any]:
    """Entry of ``uns["spatial"]`` with a small picture."""
    pixels, scale = lattice.tissue.pixels, lattice.tissue.scale
    step = -(-max(pixels.shape[:2]) // _PICTURE)
    metadata = {"source_image_path": str(path_of(image))} if isinstance(image, str | Path) else {}
    return {
        "images": {"hires": np.ascontiguousarray(pixels[::step, ::step])},
        "scalefactors": {
            "tissue_hires_scalef": scale / step,
            "spot_diameter_fullres": lattice.pitch,
            "microns_per_pixel": float(micrometres_per_pixel),
        },
        "metadata": metadata,
    }
