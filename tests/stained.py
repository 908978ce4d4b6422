"""Simulated sections with an image whose colours and texture follow the cell types, and what aligns them in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import nn

from stimage import datasets, pp
from stimage.models import STAlign
from stimage.modules import AlignerConfig, ImageEncoder, ImageEncoderConfig

PITCH = 80.0
"""Full-resolution pixels between neighbouring spots."""
SCALE = 0.2
"""Pixels of the image for each full-resolution pixel."""
TINY = AlignerConfig(dim=16, n_tokens=2, n_layers=1, n_heads=2, n_fused=16, weights=(0.4, 0.3, 0.3))
"""With all three losses, so that every part is trained."""
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}


def stained_tissue(n_rows: int = 9, n_cols: int = 8, *, n_genes: int = 60, **options: Any) -> AnnData:
    """Counts of simulated sections, each with an image in ``uns["spatial"]`` under its name; no grid and no niches yet."""
    options = {"n_domains": 3, "pitch": PITCH, **options}
    adata = datasets.simulate_tissue(n_rows=n_rows, n_cols=n_cols, n_genes=n_genes, **options)
    names = adata.obs["slide"].cat.categories
    adata.uns["spatial"] = {
        name: library(adata[adata.obs["slide"] == name], seed=number) for number, name in enumerate(names)
    }
    return adata


def library(adata: AnnData, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Entry of ``uns["spatial"]``: around each spot the image has the colours and the texture of its cell types."""
    stains = np.random.default_rng(99)
    types = np.asarray(adata.obsm["cell_types"], dtype=np.float64)
    colours = types @ stains.uniform(60, 230, (types.shape[1], 3))
    roughness = types @ stains.uniform(0, 40, types.shape[1])
    centres = adata.obsm["spatial"] * SCALE
    width, height = (centres.max(axis=0) + PITCH * SCALE).astype(int)
    y, x = np.mgrid[:height, :width] + 0.5
    distance = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    nearest = distance.argmin(axis=2)
    noise = np.random.default_rng(seed).normal(size=(height, width, 1)) * roughness[nearest][..., None]
    on_tissue = distance.min(axis=2) < (PITCH * SCALE) ** 2
    pixels = np.where(on_tissue[..., None], colours[nearest] + noise, 255)
    return {
        "images": {"hires": np.clip(pixels, 0, 255).astype(np.uint8)},
        "scalefactors": {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": 0.55 * PITCH},
    }


def prepared(adata: AnnData, **options: Any) -> AnnData:
    """The same AnnData with a grid and niches."""
    pp.compact_grid(adata, **options)
    pp.build_niches(adata)
    return adata


def apart(adata: AnnData) -> list[AnnData]:
    """Each slide on its own, with its own image, grid and niches."""
    parts = []
    for name in adata.obs["slide"].cat.categories:
        part = adata[adata.obs["slide"] == name].copy()
        part.uns = {"spatial": {name: adata.uns["spatial"][name]}}
        parts.append(prepared(part))
    return parts


def tiny_encoder(*, width: int = 24, seed: int = 0) -> ImageEncoder:
    """A random convolution over patches of 16 x 16 pixels; its maps, averaged and mixed, are the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, width, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        backbone = nn.Sequential(*layers, nn.Linear(width, width))
    return ImageEncoder(backbone, ImageEncoderConfig("tiny", width, "tiny", input_size=16))


def aligner_of(data: AnnData | list[AnnData], *, training: dict[str, Any] | None = None, **options: Any) -> STAlign:
    """A tiny aligner, trained for a moment."""
    model = STAlign(data, **{"image_encoder": tiny_encoder(), "n_pool_genes": 40, "config": TINY, **options})
    model.train(**{"max_epochs": 2, "batch_size": 32, **QUIET, **(training or {})})
    return model


def use_cache(folder: Path, monkeypatch: Any) -> None:
    """Keep image features in a folder of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
