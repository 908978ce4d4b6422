"""Simulated sections with an image whose colours and texture follow the cell types, and an encoder small enough for tests."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from torch import nn

from stimage import datasets, pp
from stimage.modules import AlignerConfig, ImageEncoder, ImageEncoderConfig

PITCH = 80.0
"""Full-resolution pixels between neighbouring spots."""
SCALE = 0.2
"""Pixels of the image for each full-resolution pixel."""
TINY = AlignerConfig(dim=16, n_tokens=2, n_layers=1, n_heads=2, n_fused=16)
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}


def stained_tissue(
    n_rows: int = 12, n_cols: int = 11, *, n_slides: int = 1, n_genes: int = 100, seed: int = 0
) -> AnnData:
    """Counts of simulated sections, each with an image; no grid and no niches yet."""
    adata = datasets.simulate_tissue(
        n_rows=n_rows, n_cols=n_cols, n_genes=n_genes, n_domains=4, n_slides=n_slides, pitch=PITCH, seed=seed
    )
    names = adata.obs["slide"].cat.categories
    adata.uns["spatial"] = {
        name: library(adata[adata.obs["slide"] == name], seed=number) for number, name in enumerate(names)
    }
    return adata


def library(adata: AnnData, *, seed: int = 0) -> dict[str, dict]:
    """Entry of ``uns["spatial"]`` whose image is painted around each spot in the colours of its cell types."""
    rng = np.random.default_rng(99)
    types = np.asarray(adata.obsm["cell_types"], dtype=np.float64)
    colours = types @ rng.uniform(60, 230, (types.shape[1], 3))
    roughness = types @ rng.uniform(0, 40, types.shape[1])
    centres = adata.obsm["spatial"] * SCALE
    width, height = (centres.max(axis=0) + PITCH * SCALE).astype(int)
    y, x = np.mgrid[:height, :width] + 0.5
    distance = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    nearest = distance.argmin(axis=2)
    noise = np.random.default_rng(seed).normal(size=(height, width, 1)) * roughness[nearest][..., None]
    pixels = np.where((distance.min(axis=2) < (PITCH * SCALE) ** 2)[..., None], colours[nearest] + noise, 255)
    return {
        "images": {"hires": np.clip(pixels, 0, 255).astype(np.uint8)},
        "scalefactors": {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": 0.55 * PITCH},
    }


def prepared(adata: AnnData, **options: object) -> AnnData:
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
    """A random convolution over patches of 16 x 16 pixels, with the mean and spread of its maps as features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, width)
        )
    return ImageEncoder(backbone.eval(), ImageEncoderConfig("tiny", width, "tiny", input_size=16))
