from __future__ import annotations

import numpy as np

from stimage.data.slides._slide import Slide


def split_by_slide(slides: list[Slide], validation_size: float, *, seed: int = 0) -> tuple[list[Slide], list[Slide]]:
    """Split slides into training and validation slides.

    Parameters
    ----------
    slides
        At least two slides.
    validation_size
        Share of the slides held out; at least one is.
    seed
        Seed of the choice.

    Returns
    -------
    tuple
        Training slides and validation slides.

    Raises
    ------
    ValueError
        If there are fewer than two slides.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, n_slides=3)
    >>> sti.pp.compact_grid(adata, slide_key="slide")
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> training, validation = sti.data.split_by_slide(list(corpus), 0.3)
    >>> len(training), len(validation)
    (2, 1)
    """
    if len(slides) < 2:
        raise ValueError(f"A split by slide needs at least two slides, got {len(slides)}; split by block instead.")
    n_validation = min(max(round(validation_size * len(slides)), 1), len(slides) - 1)
    order = np.random.default_rng(seed).permutation(len(slides))
    held_out = set(order[:n_validation].tolist())
    training = [slide for i, slide in enumerate(slides) if i not in held_out]
    return training, [slides[i] for i in sorted(held_out)]


def split_by_block(
    slide: Slide, validation_size: float, *, buffer: int, seed: int = 0, n_candidates: int = 64
) -> tuple[Slide, Slide]:
    """Hold out a rectangular block of a slide, with a buffer that neither side uses.

    Neighbouring spots are alike, so a random choice of spots (or of overlapping windows) as validation set would be
    seen in training. A buffer of a window's width keeps every training window at least that far from the block.

    Parameters
    ----------
    slide
        The slide.
    validation_size
        Share of the slide's sites in the block, about.
    buffer
        Rows and columns around the block that are left out of training.
    seed
        Seed of the block's position: the first of the random places that leave nearly as many sites to training as the
        best of them.
    n_candidates
        Number of places tried.

    Returns
    -------
    tuple
        The slide restricted to the training sites, and restricted to the block; both are centred on the training sites.

    Raises
    ------
    ValueError
        If no place leaves at least a quarter of the slide to training.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> training, validation = sti.data.split_by_block(slide, 0.1, buffer=4)
    >>> bool((training.active & validation.active).any())
    False
    """
    tissue = slide.raster >= 0
    n_rows, n_cols = slide.shape
    height = max(1, round(n_rows * np.sqrt(validation_size)))
    width = max(1, round(n_cols * np.sqrt(validation_size)))
    rng = np.random.default_rng(seed)
    places = []
    for _ in range(n_candidates):
        top, left = rng.integers(n_rows - height + 1), rng.integers(n_cols - width + 1)
        block = np.zeros(slide.shape, dtype=bool)
        block[top : top + height, left : left + width] = True
        near = np.zeros(slide.shape, dtype=bool)
        near[max(top - buffer, 0) : top + height + buffer, max(left - buffer, 0) : left + width + buffer] = True
        if (tissue & block).sum() >= 0.5 * validation_size * tissue.sum():
            places.append((int((tissue & ~near).sum()), block, near))
    best_left = max((n_left for n_left, _, _ in places), default=0)
    if best_left < 0.25 * tissue.sum():
        raise ValueError(
            f"Slide {slide.name!r} ({n_rows} x {n_cols} sites) is too small to hold out a block of {validation_size:.0%} "
            f"with a buffer of {buffer} sites: at most {best_left / tissue.sum():.0%} would be left for training. Train "
            "without validation (`validation_size=0`), use a smaller window, or validate on whole slides."
        )
    _, block, near = next(place for place in places if place[0] >= 0.9 * best_left)
    training = slide.restrict(~near)
    return training, slide.restrict(block, centre=training.gene_mean)
