"""An aligner's slides from the image features of a corpus on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from stimage import _validate
from stimage.data import Corpus, StoredPairs, Vocabulary
from stimage.data.slides._expression import COUNTS_PER_SPOT
from stimage.models.alignment._image_features import PatchSpec, encoder_id
from stimage.models.alignment._patch_scale import PatchScale, typical_scale
from stimage.models.alignment._setup import PairedCorpus
from stimage.modules import ImageEncoder


def check_stored(
    pairs: StoredPairs, *, genes: Any, patches: PatchSpec | None, gene_encoder: Any, train_image_encoder: bool
) -> PatchSpec:
    """Patches of a corpus; raise ``ValueError`` for options that a corpus on disk does not go with."""
    if genes is not None:
        raise ValueError("`genes` is of AnnData: a corpus on disk has its genes, which are all used.")
    if gene_encoder is not None:
        raise ValueError("`gene_encoder` is for AnnData: a corpus on disk does not hold the counts of all genes.")
    if train_image_encoder:
        raise ValueError("`train_image_encoder` is for AnnData: a corpus on disk holds features, not pixels.")
    own = patches_of(pairs)
    if patches is not None and patches != own:
        raise ValueError(f"`patches` are {patches}, features of the corpus are of {own}: leave them out.")
    return own


def patches_of(pairs: StoredPairs) -> PatchSpec:
    """Patches that the features of a corpus are of."""
    return PatchSpec(**{name: tuple(widths) for name, widths in pairs.facts["patches"].items()})


def stored_corpus(
    pairs: StoredPairs,
    vocabulary: Vocabulary | None,
    encoders: tuple[ImageEncoder | None, ImageEncoder | None],
    patches: PatchSpec,
    *,
    niches: bool,
    images: bool,
) -> PairedCorpus:
    """Slides of a corpus as an aligner sees them; features and expression stay on disk.

    Raises
    ------
    ValueError
        If the corpus has other genes than the aligner, or features of other encoders or patches.
    """
    corpus = Corpus(
        pairs.corpus.slides, pairs.corpus.vocabulary, source=pairs.corpus.source, details=pairs.corpus.details
    ).to_target_sum(COUNTS_PER_SPOT)
    if vocabulary is not None and not np.array_equal(corpus.genes, vocabulary.genes):
        raise ValueError(
            f"The corpus has other genes (e.g. {_validate.listing(corpus.genes, 3)}) than the aligner (e.g. "
            f"{_validate.listing(vocabulary.genes, 3)}): build it with `genes=aligner.genes`."
        )
    images = images and encoders[0] is not None
    if images:
        _check_encoders(pairs, encoders)
        if patches_of(pairs) != patches:
            raise ValueError(f"Features of the corpus are of {patches_of(pairs)}, the aligner has {patches}.")
    without: dict[str, Any] = {} if images else {"spot_image": None, "niche_image": None}
    if not niches:
        without |= {"niches": None, "niche_image": None}
    slides = [replace(part, slide=slide, **without) for part, slide in zip(pairs.slides, corpus, strict=True)]
    return PairedCorpus(corpus, slides)


def stored_scale(pairs: StoredPairs, *, niches: bool) -> PatchScale:
    """Sizes of patches on the slides of a corpus."""
    distances, widths = ([known[name] for known in pairs.scales] for name in ("spot_distance", "niche_width"))
    return typical_scale(distances, widths if niches else [])


def _check_encoders(pairs: StoredPairs, encoders: tuple[ImageEncoder | None, ImageEncoder | None]) -> None:
    for parameter, encoder, name, identity in zip(
        ("image_encoder", "niche_image_encoder"),
        encoders,
        pairs.facts["image_encoders"],
        pairs.facts["image_encoder_ids"],
        strict=True,
    ):
        if encoder is not None and encoder_id(encoder) != identity:
            raise ValueError(
                f"Features of the corpus are of the encoder {name!r}, `{parameter}` is {encoder.config.name!r} or has other "
                "weights: pass the same one, or open another group of features with `stimage.data.StoredPairs.open`."
            )
