"""Niches and image features of the slides of a corpus on disk, in a zarr group beside their counts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _validate
from stimage._files import sync_folder
from stimage._paths import path_of
from stimage.data.corpus._corpus import Corpus
from stimage.data.corpus._stored_rows import StoredRows
from stimage.data.sampling._paired_slide import PairedSlide
from stimage.data.slides._slide import Slide

if TYPE_CHECKING:
    import pandas as pd

PAIRS = "pairs.zarr"
FORMAT = {"format": "stimage pairs", "version": 1}
LEVELS = ("spot_image", "niche_image")
SCALES = ("spot_distance", "niche_width", "image_scale")


@dataclass(frozen=True)
class StoredPairs:
    """The slides of a corpus on disk that have image features there: what an aligner is trained from.

    Parameters
    ----------
    path
        Folder of the corpus.
    corpus
        The slides with features, all their genes.
    slides
        These slides with niches and images, in the same order.
    facts
        How niches and features were made: names and hashes of the encoders, patches, sizes.
    scales
        Of each slide ``spot_distance``, the distance between spots in micrometres (None where unknown), ``niche_width``, the
        width of a niche in such distances, and ``image_scale``, pixels of the image for each full-resolution pixel.

    Examples
    --------
    See :func:`stimage.pp.build_pairs`.
    """

    path: Path
    corpus: Corpus
    slides: list[PairedSlide]
    facts: dict[str, Any]
    scales: list[dict[str, float | None]]

    def __repr__(self) -> str:
        n_spots = sum(slide.n_spots for slide in self.slides)
        return f"StoredPairs of {len(self.slides)} slides, {n_spots} spots and {len(self.corpus.genes)} genes"

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, image_encoder: str | None = None) -> StoredPairs:
        """Open the image features of a corpus: they and the expression stay on disk.

        Parameters
        ----------
        path
            Folder of the corpus.
        image_encoder
            Name of the encoder or the group in ``pairs.zarr``, where there are several.

        Returns
        -------
        StoredPairs
            Slides whose images are :class:`StoredRows`.

        Raises
        ------
        FileNotFoundError
            If there is no corpus, or no slide in it has features.
        ValueError
            If features do not fit the corpus or are of another version, or several encoders were used and none is named.
        """
        _validate.check_path("path", path)
        folder = path_of(path)
        corpus = Corpus.open(folder)
        return cls._of_group(folder, corpus, _group_of(folder, image_encoder))

    @classmethod
    def _of_group(cls, folder: Path, corpus: Corpus, group: Path) -> StoredPairs:
        facts = read_facts(group)
        kept, slides, scales = [], [], []
        for number, slide in enumerate(corpus):
            place = group / slide_key(slide)
            if place.exists() and n_measured(slide) >= facts["min_spots"]:
                paired, known = _read_slide(place, slide)
                kept.append(number)
                slides.append(paired)
                scales.append(known)
        if not slides:
            raise FileNotFoundError(
                f"No slide of the corpus {str(folder)!r} has image features in {group.name!r}: run `stimage.pp.build_pairs`."
            )
        return cls(folder, _part_of(corpus, kept, slides), slides, facts, scales)

    def subset(self, names: Sequence[str]) -> StoredPairs:
        """Some of the slides, such as those of one part of :func:`split_by_donor`.

        Parameters
        ----------
        names
            Names of the slides.

        Returns
        -------
        StoredPairs
            These slides, in the order of ``names``.

        Raises
        ------
        KeyError
            If a slide is not here.
        """
        number_of = {slide.name: number for number, slide in enumerate(self.corpus)}
        missing = [name for name in names if name not in number_of]
        if missing or not len(names):
            raise KeyError(f"No such slides here: {_validate.listing(missing, 5)}; see `report()`.")
        numbers = [number_of[name] for name in names]
        slides = [self.slides[number] for number in numbers]
        scales = [self.scales[number] for number in numbers]
        return replace(self, corpus=_part_of(self.corpus, numbers, slides), slides=slides, scales=scales)

    def report(self) -> pd.DataFrame:
        """Which slides of the corpus are here, and why the others are not.

        Returns
        -------
        pandas.DataFrame
            A row for each slide of the corpus (index: its name): ``status`` (``"stored"`` or ``"left out"``), ``reason``,
            ``donor``, ``n_spots``, ``n_spots_with_counts``, ``image_scale`` (below 1 a smaller image stands for that at full
            resolution) and ``contradiction``, that of :meth:`Corpus.report`.
        """
        import pandas as pd

        corpus = Corpus.open(self.path)
        donors = {slide.name: slide.donor for slide in self.corpus}
        scales = {slide.name: known["image_scale"] for slide, known in zip(self.corpus, self.scales, strict=True)}
        left_out = self.facts["left_out"]
        rows = [
            {
                "slide": slide.name,
                "status": "stored" if slide.name in donors else "left out",
                "reason": "" if slide.name in donors else left_out.get(slide_key(slide), "its source was not passed"),
                "donor": donors.get(slide.name, slide.donor),
                "n_spots": len(slide.site_of_observation),
                "n_spots_with_counts": n_measured(slide),
                "image_scale": scales.get(slide.name, np.nan),
            }
            for slide in corpus
        ]
        return pd.DataFrame(rows).set_index("slide").join(corpus.report()["contradiction"])


class PairsGroup:
    """Where the features of one pair of encoders are written, slide by slide; each appears when all of it is on the disk.

    Parameters
    ----------
    folder
        Folder of the corpus.
    scratch
        Folder on the same disk, for what is not finished.
    facts
        How niches and features are made; what is made otherwise goes into a group of its own.
    """

    def __init__(self, folder: Path, scratch: Path, facts: Mapping[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True)
        name = re.sub(r"[^A-Za-z0-9-]+", "_", str(facts["image_encoders"][0])).strip("_")
        self.path = folder / PAIRS / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.scratch = scratch
        self.facts = dict(facts)

    def begin(self, min_spots: int) -> None:
        """Make the group, or note that slides of fewer spots with counts are not wanted now."""
        import zarr

        if not self.path.exists():
            zarr.open_group(str(self.path.parent), mode="a", zarr_format=3)
            group = zarr.open_group(str(self.scratch / "group"), mode="w", zarr_format=3)
            group.attrs.update({**FORMAT, **self.facts})
            os.rename(self.scratch / "group", self.path)
        self._note(min_spots=min_spots, left_out={})

    def __contains__(self, slide: Slide) -> bool:
        return (self.path / slide_key(slide)).exists()

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Note why slides are left out, by their keys."""
        self._note(left_out=dict(reasons))

    def write(
        self,
        slide: Slide,
        niches: sparse.csr_matrix,
        images: Mapping[str, np.ndarray],
        *,
        donor: str,
        scales: Mapping[str, float | None],
    ) -> None:
        """Write the niches and features of a slide.

        Parameters
        ----------
        slide
            The slide of the corpus.
        niches
            Members of the niche of each spot (spots x spots).
        images
            Standardised features of spots and of niches.
        donor
            Who the slide is from.
        scales
            See :class:`StoredPairs`.
        """
        import zarr

        draft = self.scratch / "slide"
        group = zarr.open_group(str(draft), mode="w", zarr_format=3)
        group.attrs.update(
            {
                "slide": slide.name,
                "donor": donor,
                "n_spots": len(slide.site_of_observation),
                **scales,
            }
        )
        for name in LEVELS:
            StoredRows.write(draft / name, images[name])
        for name in ("indptr", "indices"):
            values = np.asarray(getattr(niches, name), dtype=np.int64 if name == "indptr" else np.int32)
            group.create_array(f"niche_{name}", data=values, chunks=values.shape)
        for file in sorted(draft.rglob("*")):
            if file.is_file():
                _sync(file)
        os.rename(draft, self.path / slide_key(slide))
        sync_folder(self.path)

    def _note(self, **changes: Any) -> None:
        import zarr

        attributes = zarr.open_group(str(self.path), mode="r+").attrs
        attributes.put({**attributes.asdict(), **changes})


def read_facts(group: Path) -> dict[str, Any]:
    """Attributes of a group of features; raise ``ValueError`` if they are not those of one."""
    import zarr

    try:
        facts = dict(zarr.open_group(str(group), mode="r").attrs)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(group)!r} is damaged ({error!s:.200}): run `stimage.pp.build_pairs` again.") from error
    if facts.get("format") != FORMAT["format"]:
        raise ValueError(f"{str(group)!r} are no image features that stimage wrote.")
    if facts.get("version") != FORMAT["version"]:
        raise ValueError(
            f"{str(group)!r} has format version {facts.get('version')!r:.50}, this version of stimage reads "
            f"{FORMAT['version']}: update stimage."
        )
    return facts


def slide_key(slide: Slide) -> str:
    """Name of the features of a slide of a corpus on disk: that of its file, which has its checksum in it."""
    return Path(slide.expression.path).stem


def n_measured(slide: Slide) -> int:
    """Number of spots with counts."""
    return int(slide.active[slide.site_of_observation].sum())


def _part_of(corpus: Corpus, numbers: list[int], slides: list[PairedSlide]) -> Corpus:
    """The slides of a corpus that have these numbers there."""
    return Corpus(
        [paired.slide for paired in slides],
        corpus.vocabulary,
        source=[corpus.source[number] for number in numbers],
        details=[corpus.details[number] for number in numbers],
    )


def _group_of(folder: Path, image_encoder: str | None) -> Path:
    groups = sorted(path for path in (folder / PAIRS).glob("*") if (path / "zarr.json").exists())
    if not groups:
        raise FileNotFoundError(
            f"The corpus {str(folder)!r} has no image features: run `stimage.pp.build_pairs` with its sources."
        )
    if image_encoder is not None:
        _validate.check_text("image_encoder", image_encoder)
        named = [path for path in groups if image_encoder in (path.name, read_facts(path)["image_encoders"][0])]
    else:
        named = groups
    if len(named) != 1:
        raise ValueError(
            f"`image_encoder`={image_encoder!r}: {len(named)} groups of image features of the corpus {str(folder)!r} are "
            f"meant; it has {_validate.listing([path.name for path in groups], 10)}: pass one of these names."
        )
    return named[0]


def _read_slide(place: Path, slide: Slide) -> tuple[PairedSlide, dict[str, float | None]]:
    """A slide with its niches and images, and its scales."""
    import zarr

    try:
        group = zarr.open_group(str(place), mode="r")
        known = dict(group.attrs)
        n_spots = len(slide.site_of_observation)
        images = {name: StoredRows.open(place / name) for name in LEVELS}
        indptr, indices = group["niche_indptr"][:], group["niche_indices"][:]
        if known["n_spots"] != n_spots or any(len(rows) != n_spots for rows in images.values()):
            raise ValueError(f"it has not the {n_spots} spots of the slide")
        if len(indptr) != n_spots + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 1).any():
            raise ValueError("its niches are not those of its spots")
        if len(indices) and not 0 <= indices.min() <= indices.max() < n_spots:
            raise ValueError("its niches have spots that it does not have")
        donor, scales = str(known["donor"]), {name: known[name] for name in SCALES}
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"Image features of slide {slide.name!r} in {str(place)!r} are damaged ({error!s:.200}): remove this folder and "
            "run `stimage.pp.build_pairs` again."
        ) from error
    members = np.ones(len(indices), dtype=bool)
    niches = sparse.csr_matrix((members, indices, indptr.astype(np.int32)), shape=(n_spots, n_spots))
    return PairedSlide(replace(slide, donor=slide.donor or donor), niches, **images), scales


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
