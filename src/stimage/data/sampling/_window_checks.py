"""What is wrong with training windows before any is cut: too few places, too little tissue, regions that cannot be hidden."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from stimage import _validate
from stimage.data.sampling._windows import WindowSpec, crop, window_origins
from stimage.data.sampling.masking import MASKINGS, hides_a_part
from stimage.data.sampling.masking._draw import GeneratorRandom
from stimage.data.sampling.masking._rule import MaskingRule
from stimage.data.slides._slide import Slide

FEWEST_PLACES = 16
"""Places of a window on a slide below which nearly every window shows the same."""
LARGEST_SHARE = 0.05
"""Share of hidden regions that may be single sites instead before training says so."""
_N_TRIED = 256


def window_concerns(slides: Sequence[Slide], spec: WindowSpec) -> list[str]:
    """What a user should know of the windows that training is about to draw.

    Parameters
    ----------
    slides
        The slides.
    spec
        How windows are cut.

    Returns
    -------
    list of str
        Sentences with numbers and advice, about slides with fewer than ``FEWEST_PLACES`` places for a window, without a
        window that has enough data, or without any window, and about hidden regions of which more than ``LARGEST_SHARE`` hold
        no tissue or all of it. Empty when all is well.

    Examples
    --------
    >>> import stimage as sti
    >>> from stimage.data.sampling._window_checks import window_concerns
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> window_concerns([slide], sti.data.WindowSpec(window=8))
    []
    >>> window_concerns([slide], sti.data.WindowSpec(window=19))[0][:58]
    '1 of 1 slides has fewer than 16 places for windows of 19 x'
    """
    size = spec.window
    origins = [window_origins(slide, size, spec.min_occupancy) for slide in slides]
    found = []
    none = [slide for slide, own in zip(slides, origins, strict=True) if not len(own)]
    if none:
        found.append(
            f"{_slides(none, slides)} no window of {size} x {size} sites with data in two of them and "
            f"{_be(none)} never trained on ({_names(none)})."
        )
    few = [(slide, len(own)) for slide, own in zip(slides, origins, strict=True) if 0 < len(own) < FEWEST_PLACES]
    if few:
        some = [slide for slide, _ in few]
        facts = [f"{slide.name} ({slide.shape[0]} x {slide.shape[1]} sites): {n}" for slide, n in few]
        smaller = _window_with_places(some, spec)
        advice = (
            "" if smaller is None else f": train with `window={smaller}` or less, which has {FEWEST_PLACES} on each"
        )
        found.append(
            f"{_slides(some, slides)} fewer than {FEWEST_PLACES} places for windows of {size} x {size} sites "
            f"({_validate.listing(facts, 5)}). A window is then nearly the whole slide, again and again{advice}."
        )
    lean = []
    for slide, own in zip(slides, origins, strict=True):
        fullest = max((_observed(slide, origin, size).mean() for origin in own), default=1.0)
        if fullest < spec.min_occupancy:
            lean.append((slide, fullest))
    if lean:
        some = [slide for slide, _ in lean]
        facts = [f"{slide.name}: {fullest:.0%}" for slide, fullest in lean]
        found.append(
            f"{_slides(some, slides)} no window of {size} x {size} sites with data in {spec.min_occupancy:.0%} of them, "
            f"and the fullest are taken ({_validate.listing(facts, 5)}): train with a smaller `window`, or build the grid with "
            "larger bins."
        )
    for _, rule, ratio in MASKINGS[spec.masking].parts(spec.mask_ratio):
        share = _share_missed(slides, origins, spec, rule, ratio) if rule.may_miss else 0.0
        if share > LARGEST_SHARE:
            found.append(
                f"`masking={spec.masking!r}` hides single sites instead of a region in {share:.0%} of the windows that are to "
                "have one, where the rectangle holds no tissue or all of it: train with a larger `mask_ratio` or a smaller "
                "`window`, or with `masking='site'`."
            )
    return found


def _window_with_places(slides: Iterable[Slide], spec: WindowSpec) -> int | None:
    """The largest window that has enough places on each slide."""
    for size in range(spec.window - 1, 1, -1):
        if all(len(window_origins(slide, size, spec.min_occupancy)) >= FEWEST_PLACES for slide in slides):
            return size
    return None


def _share_missed(
    slides: Sequence[Slide], origins: Sequence[np.ndarray], spec: WindowSpec, rule: MaskingRule, ratio: float
) -> float:
    """Share of hidden regions that become single sites, of some windows drawn as training draws them."""
    rng = np.random.default_rng(0)
    weights = np.array([slide.active.sum() if len(own) else 0 for slide, own in zip(slides, origins, strict=True)])
    if not weights.any():
        return 0.0
    failed = 0
    for choice in rng.choice(len(slides), size=_N_TRIED, p=weights / weights.sum()):
        observed = torch.from_numpy(_observed(slides[choice], rng.choice(origins[choice]), spec.window))[None]
        hidden = rule.draw(observed, ratio, GeneratorRandom([rng])) & observed
        failed += not hides_a_part(observed, hidden).item()
    return failed / _N_TRIED


def _observed(slide: Slide, origin: np.ndarray, size: int) -> np.ndarray:
    sites = crop(slide.raster, *map(int, origin), size, size)
    return np.append(slide.active, False)[sites]


def _slides(some: list[Slide], slides: Sequence[Slide]) -> str:
    return f"{len(some)} of {len(slides)} slides {'has' if len(some) == 1 else 'have'}"


def _be(some: list[Slide]) -> str:
    return "is" if len(some) == 1 else "are"


def _names(some: list[Slide]) -> str:
    return _validate.listing((slide.name for slide in some), 5)
