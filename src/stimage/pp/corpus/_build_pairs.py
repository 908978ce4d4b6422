from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._paths import path_of
from stimage._validate import check_path, check_positive
from stimage.io._note import note_of
from stimage.pp._niches import build_niches
from stimage.pp.corpus._sources import Source, check_sources, fingerprint, naming, read_source

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Corpus, SlideImage, StoredPairs
    from stimage.data.corpus._index import CorpusIndex
    from stimage.data.corpus._stored_pairs import PairsGroup
    from stimage.models import PatchSpec
    from stimage.models.alignment._setup import ImageReader
    from stimage.modules import ImageEncoder

_READING = ("layer", "slide_key", "grid_key", "table", "coordinate_system")
"""Options of reading that a corpus notes: its sources are read again as they were."""


def build_pairs(
    sources: AnnData | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    image_encoder: str | ImageEncoder = "efficientnet_lite0",
    niche_image_encoder: str | ImageEncoder | None = None,
    patches: PatchSpec | None = None,
    n_neighbors: int | None = None,
    rings: int | None = None,
    min_spots: int = 50,
    donor_key: str | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> StoredPairs:
    """Add niches and image features to a corpus on disk, with one source in memory at a time, to train an aligner from it.

    Each slide is computed once for each encoder, kind of patches and of niches, and appears when all of it is on the disk:
    called again in the same way after an interruption, or with more sources, it computes what is missing. Sources are only
    read.

    Parameters
    ----------
    sources
        Sources that the corpus was built from by :func:`build_corpus`, now with their images: paths or AnnData, in any order.
        ``corpus.report()["path"]`` has the paths.
    path
        Folder of the corpus.
    image_encoder, niche_image_encoder
        Frozen encoders of spot and of niche patches, as of :class:`stimage.models.STAlign`.
    patches
        Which image patches are used.
    n_neighbors, rings
        Size of niches, see :func:`build_niches`.
    min_spots
        Slides with fewer spots with counts are left out, as in the paper.
    donor_key
        Column of ``obs`` with the donor of each slide. ``None`` takes that of the corpus, or what the source states.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    accelerator, device
        Where encoders run: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``, and the number
        of the device.

    Returns
    -------
    stimage.data.StoredPairs
        What :class:`stimage.models.STAlign` and :func:`stimage.tl.align` take; its ``report()`` says which slides are left
        out, and why.

    Warns
    -----
    UserWarning
        Once, if slides are left out, with the reasons.

    Raises
    ------
    FileNotFoundError
        If there is no corpus or source, or no slide with features.
    RuntimeError
        If another process adds features to the corpus.
    ValueError
        If a source is not in the corpus, the donor of a slide is another one in the source than in the corpus, or an encoder
        gives values that are not finite. The error names the source; slides before it stay.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import stimage as sti
    >>> from torch import nn
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> adata.uns["spatial"] = {
    ...     "slide": {
    ...         "images": {"hires": np.random.default_rng(0).integers(0, 255, (250, 300, 3)).astype("uint8")},
    ...         "scalefactors": {"tissue_hires_scalef": 0.1},
    ...     }
    ... }
    >>> backbone = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 12))
    >>> config = sti.modules.ImageEncoderConfig("colours", 12, "colours", input_size=16)
    >>> encoder = sti.modules.ImageEncoder(backbone, config)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus = sti.pp.build_corpus(adata, f"{folder}/corpus", n_pool_genes=100)
    ...     pairs = sti.pp.build_pairs(adata, f"{folder}/corpus", image_encoder=encoder)
    ...     aligner = sti.tl.align(
    ...         pairs, image_encoder=encoder, max_epochs=1, trainer_kwargs={"enable_progress_bar": False}
    ...     )
    >>> pairs
    StoredPairs of 1 slides, 302 spots and 100 genes

    References
    ----------
    ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics, arXiv 2411.16793.
    """
    check_path("path", path)
    check_positive("min_spots", min_spots, smallest=0)
    checked = check_sources(sources)
    from stimage._settings import progress
    from stimage.data import Corpus, StoredPairs
    from stimage.data.corpus._index import CorpusIndex
    from stimage.data.corpus._stored_pairs import PAIRS, PairsGroup, n_measured, slide_key
    from stimage.models import PatchSpec
    from stimage.models._devices import find_device, on_device
    from stimage.models.alignment._encoders import check_parts, image_encoders
    from stimage.models.alignment._image_features import encoder_id
    from stimage.models.alignment._setup import ImageReader
    from stimage.models.embedding._output import scratch_folder

    check_parts(None, patches, None)
    patches = PatchSpec() if patches is None else patches
    encoders = image_encoders(image_encoder, niche_image_encoder, trained=False, niches=True, seed=0)
    if encoders[0] is None:
        raise ValueError("`image_encoder` is None: pairs need the features of one.")
    place = find_device(accelerator, device, *encoders)
    folder = path_of(path)
    index, corpus = CorpusIndex.read(folder), Corpus.open(folder)
    reading = _reading_of(index, folder)
    facts = {
        "image_encoders": [encoder.config.name for encoder in encoders],
        "image_encoder_ids": [encoder_id(encoder) for encoder in encoders],
        "patches": {name: list(widths) for name, widths in asdict(patches).items()},
        "niches": {"n_neighbors": n_neighbors, "rings": rings},
    }
    how = {"donor_key": donor_key or index.notes.get("donor_key"), "niches": facts["niches"], "reading": reading}
    reader = ImageReader(*encoders, patches, image_dir, cache=None)
    left_out = {
        slide_key(slide): f"{n_measured(slide)} spots have counts, fewer than {min_spots}"
        for slide in corpus
        if n_measured(slide) < min_spots
    }
    with scratch_folder(folder / PAIRS) as scratch, on_device(place, *encoders):
        group = PairsGroup(folder, scratch, facts)
        group.begin(min_spots)
        for source in progress(checked, "Adding image features"):
            known = _slides_of_path(source, index)
            if known and all(corpus[n] in group or slide_key(corpus[n]) in left_out for n in known):
                continue
            numbers = _slides_of_content(source, index, reading["layer"])
            missing = [n for n in numbers if corpus[n] not in group and slide_key(corpus[n]) not in left_out]
            if missing:
                with naming(source):
                    left_out |= _add_source(source, corpus, numbers, missing, group, reader, **how)
        group.leave_out(left_out)
    if left_out:
        names = {slide_key(slide): slide.name for slide in corpus}
        reasons = [f"{names[key]!r}, {reason}" for key, reason in list(left_out.items())[:5]]
        more = " ..." if len(left_out) > len(reasons) else ""
        warnings.warn(
            f"{len(left_out)} of {len(corpus)} slides are left out: {'; '.join(reasons)}{more}. See `report()` of the pairs.",
            UserWarning,
            stacklevel=2,
        )
    return StoredPairs.open(folder, image_encoder=group.path.name)


def _add_source(
    source: Source,
    corpus: Corpus,
    numbers: list[int],
    missing: list[int],
    group: PairsGroup,
    reader: ImageReader,
    *,
    reading: dict[str, Any],
    donor_key: str | None,
    niches: dict[str, Any],
) -> dict[str, str]:
    """Write the slides of a source that are missing; why some cannot be, by their keys."""
    from stimage.data.corpus._corpus import slide_donor
    from stimage.data.corpus._stored_pairs import slide_key
    from stimage.data.slides._observations import slide_observations
    from stimage.models._setup import with_setup
    from stimage.models.alignment._patch_scale import niche_width
    from stimage.models.alignment._setup import niches_within, spatial_key_of

    adata = read_source(source, images=True, **reading)
    column, grid_key = reading["slide_key"], reading["grid_key"]
    # The same data as an object of its own, which niches are written to.
    adata = with_setup(adata, {"slide_key": column, "grid_key": grid_key})
    donor_key = donor_key or note_of(adata).get("donor_key") or None
    parts = slide_observations(adata, slide_key=column, grid_key=grid_key)
    donors = {n: slide_donor(adata, rows, donor_key, name) for n, (name, rows) in zip(numbers, parts, strict=True)}
    for n, donor in donors.items():
        if donor and corpus[n].donor and donor != corpus[n].donor:
            raise ValueError(
                f"slide {corpus[n].name!r} is of donor {donor!r} here and of donor {corpus[n].donor!r} in the corpus: "
                "correct one of them."
            )
    left_out: dict[str, str] = {}
    images: dict[int, SlideImage] = {}
    for n, (name, observations) in zip(numbers, parts, strict=True):
        if n in missing:
            if not np.array_equal(observations, corpus[n].observation_index):
                raise ValueError(f"slide {corpus[n].name!r} has other observations than in the corpus: build it anew.")
            with _noting_image(left_out, slide_key(corpus[n])):
                images[n] = _image(reader, adata, corpus[n], name, len(parts))
    if not images:
        return left_out
    build_niches(adata, **niches, slide_key=column, spatial_key=spatial_key_of(adata), grid_key=grid_key)
    boxes = np.asarray(adata.obsm[_keys.niche_bbox(_keys.NICHE)], dtype=np.float64)
    summary = adata.uns[grid_key].get("summary")
    for n, (name, observations) in zip(numbers, parts, strict=True):
        if n not in images:
            continue
        slide = corpus[n]
        distance = np.nan if summary is None else summary["pitch_micrometres"].get(name, np.nan)
        group.write(
            slide,
            niches_within(adata, slide, _keys.NICHE),
            reader.features(images[n], adata, slide, boxes[observations]),
            donor=donors[n],
            scales={
                "spot_distance": float(distance) if np.isfinite(distance) else None,
                "niche_width": niche_width(adata, observations, _keys.NICHE),
                "image_scale": images[n].scale,
            },
        )
    return left_out


def _image(reader: ImageReader, adata: AnnData, slide: Any, name: str, n_slides: int) -> SlideImage:
    """The image of a slide that is called ``name`` in its source."""
    from stimage.models.alignment._setup import library_of

    return reader.image(adata, slide, library_of(adata, name, n_slides, slide.observation_index))


@contextmanager
def _noting_image(left_out: dict[str, str], key: str) -> Iterator[None]:
    """Go on after a slide whose image is missing or does not fit its spots."""
    try:
        yield
    except (KeyError, FileNotFoundError, ValueError) as error:
        left_out[key] = f"no image: {error.args[0] if error.args else error}"


def _reading_of(index: CorpusIndex, folder: Path) -> dict[str, Any]:
    """How the sources of a corpus were read."""
    missing = [name for name in _READING if name not in index.notes]
    if missing:
        raise ValueError(
            f"The corpus {str(folder)!r} does not say how its sources are read: build it with `stimage.pp.build_corpus`."
        )
    return {name: index.notes[name] for name in _READING}


def _slides_of_path(source: Source, index: CorpusIndex) -> list[int]:
    """Slides of the corpus from a path."""
    return [n for n, entry in enumerate(index.slides) if source.path and entry.details.get("path") == source.path]


def _slides_of_content(source: Source, index: CorpusIndex, layer: str | None) -> list[int]:
    """Slides of the corpus from a source of this content."""
    origin = fingerprint(source, layer)
    numbers = [n for n, entry in enumerate(index.slides) if entry.origin == origin]
    if not numbers:
        changed = ", or its content is another now" if _slides_of_path(source, index) else ""
        raise ValueError(
            f"Source {source.label} is not in the corpus{changed}: add it with `stimage.pp.build_corpus` first."
        )
    return numbers
