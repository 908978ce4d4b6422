from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from stimage import _validate
from stimage.data.slides._neighbors import NearestSites
from stimage.data.slides._slide import Slide

Unit = str
"""Key of :data:`UNITS`."""
NeighborWeights = Literal["learned", "fixed"]
NEIGHBOR_WEIGHTS: tuple[NeighborWeights, ...] = ("learned", "fixed")


@dataclass(frozen=True)
class SampleUnit:
    """What one training sample is (the paper compares four).

    Parameters
    ----------
    name
        Key of :data:`UNITS`. ``"spot"``: a spot without context (Eq. 2); ``"neighborhood"``: a spot and its nearest neighbours
        (Eq. 3); ``"slice"``: a slide in macro-domains (Eq. 4); ``"patch"``: a window (Eq. 8).
    n_neighbors
        Neighbours of a spot, for ``"neighborhood"``.
    neighbor_weights
        ``"learned"``: attention of the spot to its neighbours; ``"fixed"``: their mean.
    n_macro_domains
        Macro-domains of a slide, for ``"slice"``.

    Raises
    ------
    TypeError, ValueError
        If the unit or the way of weighting is not known, or a number is not positive.

    Examples
    --------
    >>> from stimage.data import SampleUnit
    >>> SampleUnit("neighborhood").n_neighbors
    16
    """

    name: Unit = "patch"
    n_neighbors: int = 16
    neighbor_weights: NeighborWeights = "learned"
    n_macro_domains: int = 8

    def __post_init__(self) -> None:
        _validate.check_choice("unit", self.name, UNITS)
        _validate.check_choice("neighbor_weights", self.neighbor_weights, NEIGHBOR_WEIGHTS)
        _validate.check_positive("n_neighbors", self.n_neighbors)
        _validate.check_positive("n_macro_domains", self.n_macro_domains)

    @property
    def kind(self) -> SampleKind:
        """How samples of the unit are made."""
        return UNITS[self.name]


class SampleKind:
    """How samples of a unit are made of a slide's spots. A new unit is a class like this one and an entry of :data:`UNITS`.

    A sample has as many tokens as a window: spots drawn from all over the slide, each followed by its context.

    Attributes
    ----------
    name
        Key in :data:`UNITS`, and ``name`` of :class:`SampleUnit`.
    has_windows
        Whether samples are windows of the raster instead: nothing else here is used then.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.data.UNITS["neighborhood"].tokens_per_spot(sti.data.SampleUnit("neighborhood", n_neighbors=5))
    6
    """

    name: ClassVar[str]
    has_windows: ClassVar[bool] = False

    def tokens_per_spot(self, unit: SampleUnit) -> int:
        """Tokens of each spot that is drawn.

        Parameters
        ----------
        unit
            Options of the unit.

        Returns
        -------
        int
            One for the spot and one for each site of its context.
        """
        return 1

    def prepare(self, slide: Slide, unit: SampleUnit, *, seed: int) -> np.ndarray | None:
        """What is computed of a slide once, before samples are drawn.

        Parameters
        ----------
        slide
            The slide.
        unit
            Options of the unit.
        seed
            Seed of everything random.

        Returns
        -------
        numpy.ndarray or None
            Given to :meth:`groups`.
        """
        return None

    def context(self, spots: np.ndarray, nearest: NearestSites, unit: SampleUnit) -> np.ndarray:
        """Sites of the context of spots.

        Parameters
        ----------
        spots
            Site of each spot (spots).
        nearest
            Finds the nearest sites of the slide.
        unit
            Options of the unit.

        Returns
        -------
        numpy.ndarray
            Sites (spots x tokens per spot less one), -1 where there is none.
        """
        return np.empty((len(spots), 0), dtype=np.int64)

    def groups(self, sites: np.ndarray, prepared: np.ndarray | None) -> np.ndarray:
        """Group of each token; the model sees the tokens of a group together.

        Parameters
        ----------
        sites
            Site of each token, -1 for none (spots x tokens per spot).
        prepared
            What :meth:`prepare` found.

        Returns
        -------
        numpy.ndarray
            Number of the group of each token (spots x tokens per spot); by default a spot and its context are one.
        """
        return np.broadcast_to(np.arange(len(sites))[:, None], sites.shape)


UNITS: dict[Unit, SampleKind] = {}
"""Sample units by name. A new one is a file with a class like :class:`SampleKind` and a line in ``_registry.py``."""
