from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from stimage import _keys, _validate
from stimage._counts import stored_matrix
from stimage._features import counted_genes, keep_genes
from stimage._libraries import image_libraries, library_name
from stimage._paths import path_of
from stimage.data import Corpus, PairedSlide, Slide, SlideImage, Vocabulary, standardised_features
from stimage.data.slides._observations import slide_observations
from stimage.data.slides._slide import slide_raster
from stimage.models._devices import place_of
from stimage.models._setup import corpus_of, setup_of
from stimage.models._stimage import STImage
from stimage.models.alignment._image_features import PatchSpec, default_cache, patch_features
from stimage.modules import ImageEncoder, ScGPTEncoder

if TYPE_CHECKING:
    from anndata import AnnData

SPOT_PIXELS = 28
"""Rows and columns of the patch of a spot that an encoder is trained on (ST-Align, Eq. 3)."""


@dataclass(frozen=True)
class ImageReader:
    """How the patches of slides become features.

    Parameters
    ----------
    spot_encoder, niche_encoder
        Frozen encoders of spot and of niche patches; no encoder of niches where they are left out.
    patches
        Which patches.
    image_dir
        Folder of the image files that slides name by a relative path.
    cache
        Folder that keeps features; ``None`` for none.
    spot_pixels
        Read the first patch of each spot as it is, for an encoder that is trained.
    """

    spot_encoder: ImageEncoder
    niche_encoder: ImageEncoder | None
    patches: PatchSpec
    image_dir: str | Path | None
    cache: Path | None
    spot_pixels: bool = False

    @classmethod
    def of(
        cls,
        spot_encoder: ImageEncoder,
        niche_encoder: ImageEncoder | None,
        patches: PatchSpec,
        *,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        spot_pixels: bool,
    ) -> Self:
        """A reader that keeps features in a folder, the user's cache by default."""
        if cache_dir is not None:
            _validate.check_path("cache_dir", cache_dir)
        cache = default_cache() if cache_dir is None else path_of(cache_dir)
        return cls(spot_encoder, niche_encoder, patches, image_dir, cache, spot_pixels=spot_pixels)

    def __call__(
        self, adata: AnnData, slide: Slide, boxes: np.ndarray | None, library_id: str
    ) -> dict[str, np.ndarray]:
        """Standardised features of the spots of a slide and of their niches, by the names of :class:`PairedSlide`."""
        return self.features(self.image(adata, slide, library_id), adata, slide, boxes)

    def image(self, adata: AnnData, slide: Slide, library_id: str) -> SlideImage:
        """The image of a slide."""
        # Spots of other slides may lie outside this slide's image.
        part = adata[slide.observation_index]
        where = {"image_dir": self.image_dir, "spatial_key": spatial_key_of(adata)}
        return SlideImage.from_anndata(part, library_id=library_id, **where)

    def features(
        self, image: SlideImage, adata: AnnData, slide: Slide, boxes: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Features of the patches of an image, see :meth:`__call__`."""
        coordinates = _validate.check_spatial(adata, spatial_key_of(adata))[slide.observation_index]
        pitch = spot_distance(coordinates)
        kinds = {"spot_image": (self.patches.spot_boxes(coordinates, pitch), self.spot_encoder)}
        if boxes is not None:
            kinds["niche_image"] = (self.patches.niche_boxes(boxes), self.niche_encoder)
        features = {}
        for name, (parts, encoder) in kinds.items():
            if name == "spot_image" and self.spot_pixels:
                features[name], _ = image.patches(parts[0], SPOT_PIXELS)
                continue
            description = f"Images of {name.split('_')[0]}s, {slide.name}"
            raw = patch_features(image, parts, encoder, cache=self.cache, description=description)
            features[name] = standardised_features(raw)
        return features


@dataclass(frozen=True)
class PairedCorpus:
    """Slides with their niches and images, over one vocabulary.

    Parameters
    ----------
    corpus
        The slides' expression.
    slides
        The slides with niches and images, in the order of ``corpus``.
    """

    corpus: Corpus
    slides: list[PairedSlide]


def paired_corpus_of(
    data: AnnData | Sequence[AnnData],
    genes: Sequence[str] | Vocabulary | None,
    n_pool_genes: int | None = None,
    *,
    niche_key: str | None,
    reader: ImageReader | None,
    gene_encoder: STImage | ScGPTEncoder | None = None,
    counts: bool = True,
) -> PairedCorpus:
    """Read slides, with their niches and the features of their images where there are a key and a reader of these.

    Without ``counts`` those of the AnnData are not looked at, and what the slides say of expression means nothing.
    """
    adatas = _validate.check_anndatas(data, "data")
    if niche_key is not None:
        for adata in adatas:
            check_niches(adata, niche_key)
    corpus = corpus_of(adatas, genes, n_pool_genes) if counts else _without_counts(adatas, genes)
    names = [name for adata in adatas for name in _slide_names(adata)]
    vectors = [spot_vectors(adata, gene_encoder) for adata in adatas] if counts and gene_encoder is not None else None
    slides = []
    for slide, source, name in zip(corpus, corpus.source, names, strict=True):
        adata, observations = adatas[source], slide.observation_index
        niches = boxes = embedding = None
        if niche_key is not None:
            niches = niches_within(adata, slide, niche_key)
            boxes = np.asarray(adata.obsm[_keys.niche_bbox(niche_key)], dtype=np.float64)[observations]
        images: dict[str, np.ndarray] = {}
        if reader is not None:
            images = reader(adata, slide, boxes, library_of(adata, name, corpus.source.count(source), observations))
        if vectors is not None:
            embedding = standardised_features(vectors[source][observations])
        slides.append(PairedSlide(slide, niches, **images, spot_embedding=embedding))
    return PairedCorpus(corpus, slides)


def check_niches(adata: AnnData, niche_key: str) -> None:
    """Raise ``KeyError`` unless :func:`stimage.pp.build_niches` was run."""
    _validate.check_text("niche_key", niche_key)
    members, boxes = _keys.niche_connectivities(niche_key), _keys.niche_bbox(niche_key)
    if members not in adata.obsp or boxes not in adata.obsm:
        raise KeyError(
            f"No niches: adata.obsp[{members!r}] and adata.obsm[{boxes!r}] are needed (found obsp keys "
            f"{_validate.listing(adata.obsp.keys(), 30)}): run `stimage.pp.build_niches(adata)` first."
        )


def has_image(adata: AnnData) -> bool:
    """Whether an AnnData names or holds an image."""
    return bool(image_libraries(adata))


def library_of(adata: AnnData, slide: str, n_slides: int, observations: np.ndarray | None = None) -> str:
    """Entry of ``uns["spatial"]`` of a slide with some observations (all by default), see ``library_name``."""
    libraries = image_libraries(adata)
    if not libraries:
        raise KeyError(
            f"Slide {slide!r} has no image: adata.uns[{_keys.SPATIAL!r}] is empty. Add it in the way of squidpy, or align "
            "without images by leaving out `image_encoder` (`image_encoder=None`)."
        )
    library = library_name(adata, slide, observations, only_slide=n_slides == 1)
    if library is None:
        raise KeyError(
            f"No image of slide {slide!r}: adata.uns[{_keys.SPATIAL!r}] has {_validate.listing(libraries)}; name the "
            "libraries like the slides, or add obs['library_id']."
        )
    return library


def spatial_key_of(adata: AnnData) -> str:
    """Key of the full-resolution pixel coordinates of the observations: those that the grid was built from."""
    grid = adata.uns[setup_of(adata)["grid_key"]]
    return str(grid["params"].get("spatial_key", _keys.SPATIAL))


def spot_distance(coordinates: np.ndarray) -> float:
    """Median distance from a position to the nearest other one (positions x 2)."""
    distinct = np.unique(coordinates, axis=0)
    return float(np.median(cKDTree(distinct).query(distinct, k=2)[0][:, 1]))


def spot_vectors(adata: AnnData, encoder: STImage | ScGPTEncoder) -> np.ndarray:
    """Features of the expression of each observation from a frozen encoder (observations x features)."""
    if isinstance(encoder, ScGPTEncoder):
        layer = setup_of(adata)["layer"]
        counts = stored_matrix(adata, layer)
        counts = keep_genes(counts, counted_genes(adata, counts))
        return np.asarray(encoder.encode(sparse.csr_matrix(counts), np.asarray(adata.var_names)))
    accelerator = "cpu" if place_of(encoder.module).type == "cpu" else "auto"  # where it was moved to
    return encoder.get_latent_representation(adata, mode="visible", accelerator=accelerator)


def niches_within(adata: AnnData, slide: Slide, niche_key: str) -> sparse.csr_matrix:
    """Niches of the spots of a slide (spots x spots)."""
    niches = sparse.csr_matrix(adata.obsp[_keys.niche_connectivities(niche_key)])[slide.observation_index]
    within = niches[:, slide.observation_index]
    if within.nnz < niches.nnz:
        raise ValueError(
            f"Niches of slide {slide.name!r} hold spots of other slides: run `stimage.pp.build_niches` again, with "
            "`slide_key=` where `adata` holds several slides."
        )
    return within


def _slide_names(adata: AnnData) -> list[str]:
    """What the slides of an AnnData are called there: in a corpus, slides of equal name get a number."""
    setup = setup_of(adata)
    return [name for name, _ in slide_observations(adata, slide_key=setup["slide_key"], grid_key=setup["grid_key"])]


def _without_counts(adatas: list[AnnData], vocabulary: Vocabulary) -> Corpus:
    """The places of the observations alone, for what does not depend on counts."""
    slides, source = [], []
    for number, adata in enumerate(adatas):
        _validate.check_size(adata, n_vars=0)
        _validate.check_unique_names(adata)
        setup = setup_of(adata)
        places = slide_observations(adata, slide_key=setup["slide_key"], grid_key=setup["grid_key"])
        for name, observations in places:
            facts = adata.uns[setup["grid_key"]]["slides"].loc[name]
            raster, site_of_observation = slide_raster(adata, observations, name=name, grid_key=setup["grid_key"])
            n_sites = int(raster.max()) + 1
            slides.append(
                Slide(
                    name=name,
                    expression=sparse.csr_matrix((n_sites, len(vocabulary)), dtype=np.float32),
                    library_size=np.zeros(n_sites, dtype=np.float32),
                    raster=raster,
                    layout=str(facts["layout"]),
                    parity=int(facts["parity"]),
                    measured=np.zeros(len(vocabulary), dtype=bool),
                    observation_index=observations,
                    site_of_observation=site_of_observation,
                )
            )
            source.append(number)
    return Corpus.with_unique_names(slides, vocabulary, source=source)
