"""Micrometres for each unit of the spatial coordinates, as far as a slide says, and whether what it says can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage._libraries import image_libraries
from stimage._validate import check_range, listing, positive_number
from stimage.pp._nearest import typical_distance
from stimage.pp.grid._sites import LEAST_OCCUPANCY

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from stimage.pp.grid._sites import Sites

_MOST_OVERLAP = 4.0
"""Spots of a lattice do not overlap: a diameter of so many pitches is one in another unit."""
_CONTRADICTION = 2.0
"""Factor between two readings of one length from which they contradict each other."""


@dataclass(frozen=True)
class Scale:
    """Micrometres for each unit of the spatial coordinates (NaN: not known), and what says so."""

    micrometres: float = float("nan")
    evidence: str = ""

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.micrometres))


def check_micrometres(value: object) -> None:
    """Raise unless ``micrometres_per_unit`` is a positive number or ``None``."""
    if value is not None:
        check_range("micrometres_per_unit", value, 0, np.inf)


def scale_of(adata: AnnData, name: str | None, given: float | None) -> Scale:
    """Scale of a slide from what is given or what its library in ``uns["spatial"]`` says; ``name`` is ``None`` without one.

    Space Ranger writes ``microns_per_pixel`` for Visium HD. Vizgen's transformation leads from micrometres to pixels, so
    that with it the coordinates are micrometres.
    """
    stored = _stored_scale(adata, name)
    if given is None:
        return stored
    if stored.known and _contradict(given, stored.micrometres):
        raise ValueError(
            f"`micrometres_per_unit`={given:g} contradicts adata.uns['spatial'], which says {stored.micrometres:g} "
            f"({stored.evidence}): leave it out, or correct the scale factors."
        )
    return Scale(float(given), "`micrometres_per_unit`")


def _stored_scale(adata: AnnData, name: str | None) -> Scale:
    factors = scale_factors(adata, name)
    if "microns_per_pixel" in factors:
        return Scale(_positive(factors, "microns_per_pixel"), "scalefactors['microns_per_pixel']")
    if "transformation_matrix" in factors:
        return Scale(1.0, "scalefactors['transformation_matrix'] leads from micrometres to pixels")
    return Scale()


def scale_factors(adata: AnnData, name: str | None) -> Mapping[str, Any]:
    """Scale factors of a library; empty without."""
    factors = image_libraries(adata).get(name, {}).get("scalefactors")
    return factors if isinstance(factors, Mapping) else {}


def lattice_scale(sites: Sites, factors: Mapping[str, Any], scale: Scale) -> Scale:
    """Scale of a slide whose lattice is found; raise if its pitch contradicts the scale factors.

    Raises
    ------
    ValueError
        With both readings, if spots would overlap many times over, or bins of a known size lie another distance apart.
    """
    if not sites.lattice.is_regular or not np.isfinite(sites.pitch):
        return scale
    if "bin_size_um" in factors and scale.known:
        size = _positive(factors, "bin_size_um")
        found = sites.pitch * scale.micrometres
        if _contradict(found, size):
            raise ValueError(
                f"the coordinates contradict the scale factors: neighbouring sites are {sites.pitch:.4g} units apart, which "
                f"is {found:.4g} micrometres with {scale.evidence}, but scalefactors['bin_size_um'] says {size:g}. Use "
                "coordinates in pixels of the full-resolution image, or remove adata.uns['spatial']."
            )
    try:
        diameter = _positive(factors, "spot_diameter_fullres") if "spot_diameter_fullres" in factors else 0.0
    except ValueError:
        return scale  # nothing depends on it here
    if diameter > _MOST_OVERLAP * sites.pitch:
        raise ValueError(
            f"the coordinates contradict the scale factors: neighbouring sites are {sites.pitch:.4g} units apart, but "
            f"scalefactors['spot_diameter_fullres'] says that a spot is {diameter:.4g} pixels wide. Coordinates in pixels "
            "of the full-resolution image are needed, not of a smaller one and not array positions; or remove "
            "adata.uns['spatial']."
        )
    spots = sites.lattice.spots
    if spots is None:
        return scale
    low, high = spots.pitch_in_diameters
    if diameter and not low < sites.pitch / diameter < high:
        return scale
    found = Scale(spots.pitch / sites.pitch, f"spots of {spots.platform} are {spots.pitch:g} micrometres apart")
    if not diameter:  # no other platform has this lattice, but nothing confirms it either
        evidence = (
            f"a {sites.lattice.adjective} lattice is taken for {spots.platform}, whose spots are {spots.pitch:g} micrometres "
            "apart"
        )
        return scale if scale.known else replace(found, evidence=evidence)
    if scale.known and _contradict(scale.micrometres, found.micrometres):
        raise ValueError(
            f"{scale.evidence} says that a unit of the coordinates is {scale.micrometres:.4g} micrometres, but neighbouring "
            f"sites are {sites.pitch:.4g} units apart and {found.evidence}, so that a unit is {found.micrometres:.4g}: "
            "correct the first."
        )
    return found if not scale.known else scale


def coordinate_unit(adata: AnnData, name: str | None, scale: Scale) -> str:
    """``"micrometre"``, ``"pixel"`` or ``"unknown"``."""
    if scale.micrometres == 1:
        return "micrometre"
    libraries = image_libraries(adata)
    # Readers write a library even where there is no image: it says something only with an image or scale factors.
    entries = [libraries[name]] if name in libraries else list(libraries.values())
    pixels = any({"images", "scalefactors"} & set(entry) for entry in entries)
    return "pixel" if pixels else "unknown"


def in_units(bin_size: float | None, bin_unit: str, scale: Scale, adata: AnnData) -> float | None:
    """Side of a bin in units of the spatial coordinates."""
    if bin_size is None or bin_unit == "coordinate":
        return bin_size
    if not scale.known:
        found = listing(image_libraries(adata))
        raise ValueError(
            "`bin_unit`='micrometre' needs to know how long a unit of the coordinates is, which adata.uns['spatial'] does "
            f"not say (libraries: {found}): pass `micrometres_per_unit=` (1 if they are micrometres)."
        )
    return float(bin_size) / scale.micrometres


def check_bins(sites: Sites, xy: NDArray[np.float64], size: float, scale: Scale) -> None:
    """Raise if the size of the bins can only be one in another unit than that of the coordinates."""
    n, occupied = len(sites.row), len(sites.counts)
    if occupied == 1:
        found = "puts all observations into one bin"
    elif occupied == n and sites.occupancy < LEAST_OCCUPANCY:
        found = f"leaves each observation alone, and {1 - sites.occupancy:.1%} of the bins empty"
    else:
        return
    width, height = np.ptp(xy, axis=0)
    apart = typical_distance(xy)
    readings = [f"{size:.4g} units of coordinates that span {width:.4g} x {height:.4g}, neighbours {apart:.4g} apart"]
    if scale.known:
        length = scale.micrometres
        readings.append(
            f"with {scale.evidence}, {size * length:.4g} micrometres of {width * length:.4g} x {height * length:.4g}, "
            f"neighbours {apart * length:.4g} apart"
        )
    else:
        readings.append(f"if the coordinates are micrometres, cells or beads {apart:.4g} micrometres apart")
    raise ValueError(
        f"`bin_size` {found}: {'; '.join(readings)}. Pass a `bin_size` of a few times the distance of neighbours, or "
        "`bin_unit`='micrometre' with `micrometres_per_unit`, or leave it out to have it chosen."
    )


def _contradict(one: float, other: float) -> bool:
    return not 1 / _CONTRADICTION < one / other < _CONTRADICTION


def _positive(factors: Mapping[str, Any], key: str) -> float:
    return positive_number(f"adata.uns['spatial'][library]['scalefactors'][{key!r}]", factors[key])
