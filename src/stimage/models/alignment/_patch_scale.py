"""How large patches are on the tissue: what must be the same on a slide that has no spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys, _validate
from stimage.models._setup import setup_of
from stimage.models.alignment._setup import spatial_key_of, spot_distance

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Corpus


@dataclass(frozen=True)
class PatchScale:
    """Sizes on the training slides.

    Parameters
    ----------
    spot_distance
        Median distance between neighbouring spots in micrometres; ``None`` if their grids do not know it.
    niche_width
        Median longer side of the box of a niche, in distances between spots; ``None`` without niches or coordinates.

    Raises
    ------
    ValueError
        If a size is not above 0.
    """

    spot_distance: float | None
    niche_width: float | None

    def __post_init__(self) -> None:
        for name in ("spot_distance", "niche_width"):
            if getattr(self, name) is not None:
                _validate.check_range(name, getattr(self, name), 0, np.inf)


def niche_width(adata: AnnData, observations: np.ndarray, niche_key: str) -> float:
    """Median longer side of the box of a niche of some observations, in distances between them."""
    distance = spot_distance(_validate.check_spatial(adata, spatial_key_of(adata))[observations])
    boxes = np.asarray(adata.obsm[_keys.niche_bbox(niche_key)], dtype=np.float64)[observations]
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1))) / distance


def typical_scale(distances: list[float | None], widths: list[float]) -> PatchScale:
    """Sizes on slides of which each is known."""
    known = [distance for distance in distances if distance is not None and np.isfinite(distance)]
    return PatchScale(
        float(np.median(known)) if known and len(known) == len(distances) else None,
        float(np.median(widths)) if widths else None,
    )


def patch_scale_of(corpus: Corpus, adatas: list[AnnData], niche_key: str | None) -> PatchScale:
    """Sizes on the slides of a corpus, which was read from these AnnData."""
    distances, widths = [], []
    for adata in adatas:
        grid = adata.uns[setup_of(adata)["grid_key"]]
        if "summary" in grid:
            distances += np.asarray(grid["summary"]["pitch_micrometres"], dtype=np.float64).tolist()
    for slide, source in zip(corpus, corpus.source, strict=True):
        adata = adatas[source]
        key = spatial_key_of(adata)
        if niche_key is None or key not in adata.obsm:
            continue
        widths.append(niche_width(adata, slide.observation_index, niche_key))
    return typical_scale(distances, widths)
