"""The labelled slides of the benchmarks, by study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import stimage as sti

if TYPE_CHECKING:
    from anndata import AnnData

STUDIES = {
    "DLPFC": ("DLPFC_151673", "DLPFC_151674"),
    "breast cancer": tuple(f"her2st_{patient}1" for patient in "ABCDE"),
    # heart_dev_1_CN73_E1 is left out: 85 of its 91 spots are in heart_dev_2_CN73_E2, count for count.
    "developing heart": (
        "heart_dev_2_CN73_E2",
        "heart_dev_3_CN73_D2",
        "heart_dev_4_CN73_C2",
    ),
    "olfactory bulb": ("img-MOB_Rep11",),
    "visual cortex": ("STARmap_V1_BY3_1k",),
    "prefrontal cortex": ("STARmap_mPFC_BZ5", "STARmap_mPFC_BZ9"),
    "somatosensory cortex": ("osmFISH_mouse_cortex",),
    "ductal carcinoma": ("breast_xenium_IDC_labelled",),
}


def read_study(folder: Path, study: str) -> list[AnnData]:
    """The slides of a study with a grid; ``obs["slide"]`` names each, ``obs["label"]`` is missing where not annotated."""
    return read_slides(folder, STUDIES[study])


def read_slides(folder: Path, names: Sequence[str]) -> list[AnnData]:
    """Slides with a grid; ``obs["slide"]`` names each."""
    import anndata

    slides = []
    for name in names:
        adata = anndata.read_h5ad(folder / name / f"{name}.h5ad")
        adata.obs["slide"] = name
        sti.pp.compact_grid(adata, slide_key="slide")
        slides.append(adata)
    return slides


def simulated_study() -> list[AnnData]:
    """Two small simulated slides, for a run that takes seconds."""
    slides = []
    for seed in (0, 1):
        adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, n_genes=300, seed=seed)
        adata.obs["slide"] = f"simulated {seed}"
        adata.obs["label"] = adata.obs["domain"].astype(str).to_numpy(dtype=object)
        sti.pp.compact_grid(adata, slide_key="slide")
        slides.append(adata)
    return slides


def largest_window(slides: list[AnnData], window: int) -> int:
    """The window that was asked for, or the longest axis of the slides when that is shorter."""
    shapes = np.concatenate([adata.uns["grid"]["slides"][["n_rows", "n_cols"]].to_numpy() for adata in slides])
    return int(min(window, shapes.max()))
