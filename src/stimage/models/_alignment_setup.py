from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from stimage import _keys, _validate
from stimage.data import Corpus, PairedSlide, Slide, SlideImage, Vocabulary, standardised_features
from stimage.models._image_features import PatchSpec, patch_features
from stimage.models._setup import corpus_of, setup_of
from stimage.modules import ImageEncoder, ScGPTEncoder

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models._stimage import STImage

SPOT_PIXELS = 28
"""Rows and columns of the patch of a spot that an encoder is trained on (ST-Align, Eq. 3)."""


@dataclass(frozen=True)
class ImageReader:
    """How the patches of slides become features.

    Parameters
    ----------
    spot_encoder, niche_encoder
        Frozen encoders of spot and of niche patches.
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
    niche_encoder: ImageEncoder
    patches: PatchSpec
    image_dir: str | Path | None
    cache: Path | None
    spot_pixels: bool = False

    def __call__(self, adata: AnnData, slide: Slide, boxes: np.ndarray, library_id: str) -> dict[str, np.ndarray]:
        """Standardised features of the spots of a slide and of their niches, by the names of :class:`PairedSlide`."""
        coordinates = spatial_coordinates(adata)[slide.observation_index]
        image = SlideImage.from_anndata(adata, library_id=library_id, image_dir=self.image_dir)
        distances, _ = cKDTree(coordinates).query(coordinates, k=2)
        pitch = float(np.median(distances[:, 1]))
        kinds = {
            "spot_image": (self.patches.spot_boxes(coordinates, pitch), self.spot_encoder),
            "niche_image": (self.patches.niche_boxes(boxes), self.niche_encoder),
        }
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
    niche_key: str,
    reader: ImageReader | None,
    gene_encoder: STImage | ScGPTEncoder | None = None,
) -> PairedCorpus:
    """Read slides with their niches, and the features of their images where there is a reader."""
    adatas = _validate.check_anndatas(data, "data")
    for adata in adatas:
        check_niches(adata, niche_key)
    corpus = corpus_of(adatas, genes, n_pool_genes)
    slides = []
    for slide, source in zip(corpus, corpus.source, strict=True):
        adata, observations = adatas[source], slide.observation_index
        niches = sparse.csr_matrix(adata.obsp[_keys.niche_connectivities(niche_key)])[observations]
        within = niches[:, observations]
        if within.nnz < niches.nnz:
            raise ValueError(
                f"Niches of slide {slide.name!r} hold spots of other slides: run `stimage.pp.build_niches` again, with "
                "`slide_key=` where `adata` holds several slides."
            )
        images: dict[str, np.ndarray] = {}
        if reader is not None:
            boxes = np.asarray(adata.obsm[_keys.niche_bbox(niche_key)], dtype=np.float64)[observations]
            images = reader(adata, slide, boxes, library_of(adata, slide.name, corpus.source.count(source)))
        embedding = None if gene_encoder is None else spot_embedding(adata, observations, gene_encoder)
        slides.append(PairedSlide(slide, within, **images, spot_embedding=embedding))
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
    libraries = adata.uns.get(_keys.SPATIAL)
    return isinstance(libraries, Mapping) and len(libraries) > 0


def library_of(adata: AnnData, slide: str, n_slides: int) -> str:
    """Entry of ``uns["spatial"]`` of a slide: the only one of a single slide, else the one that is called like it."""
    libraries = adata.uns.get(_keys.SPATIAL)
    if not isinstance(libraries, Mapping) or not libraries:
        raise KeyError(
            f"Slide {slide!r} has no image: adata.uns[{_keys.SPATIAL!r}] is empty. Add it in the way of squidpy, or align "
            "without images by leaving out `image_encoder` (`image_encoder=None`)."
        )
    if n_slides == 1 and len(libraries) == 1:
        return str(next(iter(libraries)))
    if slide not in libraries:
        raise KeyError(
            f"No image of slide {slide!r}: adata.uns[{_keys.SPATIAL!r}] has {_validate.listing(libraries)}; name the "
            "libraries like the slides."
        )
    return slide


def spatial_coordinates(adata: AnnData) -> np.ndarray:
    """Full-resolution pixel coordinates of the observations: those that the grid was built from."""
    grid = adata.uns[setup_of(adata)["grid_key"]]
    return _validate.check_spatial(adata, str(grid["params"].get("spatial_key", _keys.SPATIAL)))


def spot_embedding(adata: AnnData, observations: np.ndarray, encoder: STImage | ScGPTEncoder) -> np.ndarray:
    """What a frozen encoder says of the expression of each spot (spots x features), standardised."""
    if isinstance(encoder, ScGPTEncoder):
        layer = setup_of(adata)["layer"]
        counts = adata.X if layer is None else adata.layers[layer]
        vectors = encoder.encode(sparse.csr_matrix(counts[observations]), np.asarray(adata.var_names))
    else:
        vectors = encoder.get_latent_representation(adata, mode="visible")[observations]
    return standardised_features(np.asarray(vectors))
