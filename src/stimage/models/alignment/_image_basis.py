from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag

from stimage.data import PairedSlide, StoredRows

_MOST_SPOTS = 20_000
_LEVELS = ("spot_image", "niche_image")


@dataclass(frozen=True)
class ImageBasis:
    """Principal components of image features: a frozen encoder gives thousands, of which slides fill few dimensions.

    Features and colours have components of their own, each block over the spread of its first one, so that a few colours
    count beside thousands of features.

    Parameters
    ----------
    spot_image, niche_image
        Axes (features and colours x components). Those of spots are None where an encoder of pixels is trained, those of
        niches where there are none.
    spot_context
        Whether the niche's image is seen beside the spot's.
    """

    spot_image: np.ndarray | None
    niche_image: np.ndarray | None
    spot_context: bool

    @classmethod
    def fit(
        cls, slides: list[PairedSlide], *, n_colours: tuple[int, int], n_components: int, spot_context: bool, seed: int
    ) -> ImageBasis:
        """Axes of the features of all slides, which are standardised slide by slide.

        Parameters
        ----------
        slides
            The slides, with features and colours of images.
        n_colours
            How many of the features of spots and of niches, the last ones, are colours.
        n_components
            Components of each level; fewer when there are not as many spots.
        spot_context
            Whether the niche's image is seen beside the spot's.
        seed
            Seed of the choice of spots, above 20,000, and of the approximate decomposition.

        Returns
        -------
        ImageBasis
            The axes.
        """
        rng = np.random.default_rng(seed)
        axes: dict[str, np.ndarray | None] = {}
        for level, n_last in zip(_LEVELS, n_colours, strict=True):
            parts = [getattr(slide, level) for slide in slides]
            if parts[0] is None or parts[0].dtype == np.uint8:
                axes[level] = None
                continue
            values = _some_rows(parts, rng)
            blocks = [_axes(part, n_components, seed) for part in np.split(values, [values.shape[1] - n_last], axis=1)]
            axes[level] = block_diag(*blocks).astype(np.float32)
        return cls(**axes, spot_context=spot_context)

    @property
    def n_spot_image(self) -> int:
        """Components that describe the image of a spot."""
        return self.spot_image.shape[1] + (self.niche_image.shape[1] if self.spot_context else 0)

    @property
    def n_niche_image(self) -> int:
        """Components that describe the image of a niche."""
        return self.niche_image.shape[1]

    def __call__(self, slide: PairedSlide) -> dict[str, np.ndarray | StoredRows]:
        """Components of the images of a slide's spots and niches (spots x components), by level; of features on disk there."""
        return self.components({name: getattr(slide, name) for name in self.tensors()})

    def components(self, images: dict[str, np.ndarray | StoredRows]) -> dict[str, np.ndarray | StoredRows]:
        """Components of standardised features (spots x features), by level."""
        seen = {name: images[name] @ axes for name, axes in self.tensors().items()}
        if self.spot_context:
            spot, niche = seen["spot_image"], seen["niche_image"]
            stored = isinstance(spot, StoredRows)
            seen["spot_image"] = spot.beside(niche) if stored else np.concatenate([spot, niche], axis=1)
        return seen

    def tensors(self) -> dict[str, np.ndarray]:
        """The axes by name."""
        axes = {level: getattr(self, level) for level in _LEVELS}
        return {name: values for name, values in axes.items() if values is not None}


def _some_rows(parts: list[np.ndarray | StoredRows], rng: np.random.Generator) -> np.ndarray:
    """Rows of all slides together, or of a random sample of them; no others are read."""
    ends = np.cumsum([len(part) for part in parts])
    if ends[-1] <= _MOST_SPOTS:
        return np.concatenate([part[:] for part in parts])
    chosen = np.sort(rng.choice(ends[-1], _MOST_SPOTS, replace=False))
    of_slide = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = [0, *ends[:-1]]
    return np.concatenate([part[rows - start] for part, rows, start in zip(parts, of_slide, starts, strict=True)])


def _axes(values: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """Principal axes (features x components) over the spread of the first component."""
    from sklearn.decomposition import PCA

    number = max(min(n_components, values.shape[1], len(values) - 1), 1)
    basis = PCA(number, svd_solver="randomized", random_state=seed).fit(values)
    return basis.components_.T / max(float(np.sqrt(basis.explained_variance_[0])), 1e-6)
