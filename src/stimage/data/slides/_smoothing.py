from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stimage.data.slides._slide import Slide

REACH = 4.0
"""Sites further away than so many widths have no weight."""


def gaussian_mean(slide: Slide, values: np.ndarray, width: float) -> np.ndarray:
    r"""Mean of the sites around each site, with weights that fall off with physical distance like a Gaussian.

    .. math:: \bar v_i = \frac{\sum_j m_j e^{-d_{ij}^2 / 2 w^2} v_j}{\sum_j m_j e^{-d_{ij}^2 / 2 w^2}}

    where :math:`d_{ij}` is the distance in units of that between neighbours and :math:`m_j` is 1 for sites with counts and 0
    for others. Edges, holes and sites without counts are therefore left out of the mean, not counted as zero. The sums are
    separable convolutions over the raster, so that the cost is linear in the number of sites and no graph is stored.

    Parameters
    ----------
    slide
        The slide.
    values
        Values of the sites (sites x dimensions).
    width
        Standard deviation of the Gaussian, in distances between neighbouring sites.

    Returns
    -------
    numpy.ndarray
        Means (sites x dimensions), float32. A site without counts has the mean of those around it. Where no site with counts
        is within four widths the mean is that over the slide.

    Raises
    ------
    ValueError
        If ``values`` has another number of rows than the slide has sites, or the width is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> bool(np.allclose(sti.data.gaussian_mean(slide, np.ones((slide.n_sites, 2)), 1.5), 1))
    True
    """
    return GaussianMean(slide, width)(values)


class GaussianMean:
    """:func:`gaussian_mean` of one slide and width, for values that come in parts.

    Parameters
    ----------
    slide
        The slide.
    width
        Standard deviation of the Gaussian, in distances between neighbouring sites.
    """

    def __init__(self, slide: Slide, width: float) -> None:
        if not (np.isfinite(width) and width > 0):
            raise ValueError(f"`width` must be positive and finite, found {width!r}.")
        rows, cols = slide.site_index.T
        self._shown = rows >= 0
        # A raster in steps across, in which shifted rows have places of their own.
        lattice, n_steps = slide.lattice, slide.lattice.steps_per_column
        rows, cols = rows[self._shown], lattice.across(rows[self._shown], cols[self._shown], slide.parity)
        self._places = rows, cols
        self._steps = [width / spacing for spacing in (lattice.row_spacing, 1 / n_steps)]
        self._image = np.zeros((slide.shape[0], n_steps * slide.shape[1]), dtype=np.float64)
        self._weights = slide.active.astype(np.float64)
        total = self._blurred(self._weights)
        reached = total > 1e-9  # less is rounding
        self._reached, self._total = np.flatnonzero(self._shown)[reached], total[reached]
        self._of_shown = reached

    def __call__(self, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Means of values (sites x dimensions), written to ``out`` if it is given, which may be ``values`` itself."""
        n_sites = len(self._weights)
        if len(values) != n_sites:
            raise ValueError(
                f"`values` has {len(values)} rows, the slide has {n_sites} sites: one row for each is needed."
            )
        means = np.empty((n_sites, values.shape[1]), dtype=np.float32) if out is None else out
        for dimension in range(values.shape[1]):
            own = self._weights * values[:, dimension]
            column = np.full(n_sites, own.sum() / max(self._weights.sum(), 1.0))
            column[self._reached] = self._blurred(own)[self._of_shown] / self._total
            means[:, dimension] = column
        return means

    def _blurred(self, numbers: np.ndarray) -> np.ndarray:
        self._image[self._places] = numbers[self._shown]
        found = self._image
        for axis, step in enumerate(self._steps):
            found = gaussian_filter1d(found, step, axis=axis, mode="constant", truncate=REACH)
        return found[self._places]
