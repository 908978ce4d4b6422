"""A stained image of a simulated section, whose look follows the cell types."""

from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

_PIXELS_PER_PITCH = 32  # a little more than the hires image of Space Ranger has
_COARSE = 4  # the composition changes from spot to spot, so every fourth pixel is enough
_HEMATOXYLIN = np.array([0.56, 0.72, 0.41])  # absorbance of red, green and blue (Macenko et al. 2009)
_EOSIN = np.array([0.22, 0.80, 0.56])


class Stain:
    """What each cell type looks like: how many nuclei it has, how large and dark they are, and what is between them."""

    def __init__(self, n_types: int, rng: np.random.Generator) -> None:
        self._nuclei = rng.uniform(2, 18, n_types)  # on a square of one pitch
        self._radius = rng.uniform(1.0, 1.8, n_types)  # pixels
        self._darkness = rng.uniform(0.7, 1.4, n_types)
        self._eosin = rng.uniform(0.1, 0.7, n_types)
        self._roughness = rng.uniform(0.02, 0.25, n_types)

    def library(
        self, coordinates: np.ndarray, proportions: np.ndarray, pitch: float, rng: np.random.Generator
    ) -> dict[str, dict[str, Any]]:
        """Entry of ``uns["spatial"]`` of a section with these cell types at these coordinates."""
        scale = _PIXELS_PER_PITCH / pitch
        centres = coordinates * scale
        width, height = (np.ceil((centres.max(axis=0) + _PIXELS_PER_PITCH) / _COARSE) * _COARSE).astype(int)
        eosin, roughness, tissue = self._background(centres, proportions, (height, width))
        texture = ndimage.gaussian_filter(rng.normal(size=(height, width)), 1.2)
        eosin *= np.clip(1 + roughness * texture / texture.std(), 0, None)
        hematoxylin = self._nuclei_of(centres, proportions, (height, width), rng) * tissue
        # Sections are stained a little more or less.
        strength = np.exp(rng.normal(0, 0.12, 2))
        absorbance = strength[0] * hematoxylin[..., None] * _HEMATOXYLIN + strength[1] * eosin[..., None] * _EOSIN
        pixels = 243 * np.exp(-absorbance)
        return {
            "images": {"hires": np.rint(pixels).astype(np.uint8)},
            "scalefactors": {"tissue_hires_scalef": scale, "spot_diameter_fullres": 0.55 * pitch},
        }

    def _background(
        self, centres: np.ndarray, proportions: np.ndarray, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eosin and its roughness between the nuclei, and whether there is tissue, at each pixel."""
        y, x = np.indices((shape[0] // _COARSE, shape[1] // _COARSE)) * _COARSE + _COARSE / 2
        distance, nearest = cKDTree(centres).query(np.stack([x, y], axis=-1), k=min(4, len(centres)))
        weight = 1 / (distance + 0.2 * _PIXELS_PER_PITCH) ** 2
        weight /= weight.sum(axis=-1, keepdims=True)
        tissue = np.clip(3 - 3 * distance[..., 0] / _PIXELS_PER_PITCH, 0, 1)
        coarse = [
            (weight * (proportions @ self._eosin)[nearest]).sum(axis=-1) * tissue,
            (weight * (proportions @ self._roughness)[nearest]).sum(axis=-1),
            tissue,
        ]
        eosin, roughness, tissue = (
            ndimage.zoom(field, _COARSE, order=1, grid_mode=True, mode="nearest") for field in coarse
        )
        return eosin, roughness, tissue

    def _nuclei_of(
        self, centres: np.ndarray, proportions: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
    ) -> np.ndarray:
        """Hematoxylin of nuclei that are strewn around each spot."""
        image = np.zeros(shape)
        for kind in range(proportions.shape[1]):
            number = rng.poisson(proportions[:, kind] * self._nuclei[kind])
            places = np.repeat(centres, number, axis=0)
            places = places + rng.uniform(-0.55, 0.55, places.shape) * _PIXELS_PER_PITCH
            x, y = np.clip(places.astype(int), 0, [shape[1] - 1, shape[0] - 1]).T
            dots = np.zeros(shape)
            np.add.at(dots, (y, x), 2 * np.pi * self._radius[kind] ** 2)
            # A blurred dot, cut off above, is a disc with a soft border.
            discs = np.clip(1.5 * ndimage.gaussian_filter(dots, self._radius[kind], truncate=3), 0, 1)
            image = np.maximum(image, self._darkness[kind] * discs)
        return image
