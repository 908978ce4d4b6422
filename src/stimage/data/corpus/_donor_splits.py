from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from stimage import _validate
from stimage.data.corpus._report import duplicates

if TYPE_CHECKING:
    from stimage.data.corpus._corpus import Corpus

_OVERSHOOT = 1.5
"""How much larger than asked for a part may become by its last group."""


def split_by_donor(
    corpus: Corpus,
    *,
    by: Literal["donor", "study"] = "donor",
    validation_size: float = 0.1,
    test_size: float = 0.1,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Split the slides of a corpus so that no donor is on two sides.

    Slides that stay together: those of one donor; those of one study, where the donor of any of them is unknown; those with
    the same counts (:meth:`Corpus.report`), whatever is said of their donors. A slide of which neither is known stays alone.

    Parameters
    ----------
    corpus
        The corpus. Studies are known where its sources named them.
    by
        ``"study"`` keeps all slides of a study together, whether or not its donors are known.
    validation_size, test_size
        Share of the sites in each part, about; 0 leaves it empty.
    seed
        Seed of the choice.

    Returns
    -------
    dict
        Names of the slides of ``"train"``, ``"validation"`` and ``"test"``, each in the order of the corpus.

    Raises
    ------
    ValueError
        If there are too few groups of slides for the parts, or the sizes leave nothing to training.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, n_slides=4)
    >>> adata.obs["donor"] = adata.obs["slide"].astype(str).map({"0": "ann", "1": "ann", "2": "bob", "3": "cleo"})
    >>> sti.pp.compact_grid(adata, slide_key="slide")
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100], donor_key="donor")
    >>> splits = sti.data.split_by_donor(corpus, validation_size=0.2, test_size=0.2)
    >>> [len(splits[part]) for part in ("train", "validation", "test")]
    [2, 1, 1]
    """
    _validate.check_choice("by", by, ("donor", "study"))
    _validate.check_seed(seed)
    sizes = {"test": test_size, "validation": validation_size}
    for part, size in sizes.items():
        _validate.check_range(f"{part}_size", size, -1e-9, 1)
    if test_size + validation_size >= 1:
        raise ValueError(
            f"`validation_size` + `test_size` is {test_size + validation_size:g}: leave something to training."
        )
    groups = _groups(corpus, by)
    wanted = [part for part, size in sizes.items() if size > 0]
    if len(groups) <= len(wanted):
        raise ValueError(
            f"The corpus has {len(groups)} groups of slides that must stay together, {len(wanted) + 1} parts need as many: use "
            "more donors, or fewer parts (`validation_size=0`, `test_size=0`)."
        )
    n_sites = np.array([sum(corpus[member].n_sites for member in group) for group in groups])
    left = np.random.default_rng(seed).permutation(len(groups)).tolist()
    part_of = {}
    for number, part in enumerate(wanted):
        target, filled, taken = sizes[part] * n_sites.sum(), 0, []
        most = len(left) - (len(wanted) - number)  # one group for each of the parts to come
        for group in left:
            if len(taken) < most and filled < target and filled + n_sites[group] <= _OVERSHOOT * target:
                taken.append(group)
                filled += n_sites[group]
        taken = taken or [min(left, key=lambda group: n_sites[group])]
        left = [group for group in left if group not in taken]
        part_of |= {member: part for group in taken for member in groups[group]}
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, slide in enumerate(corpus):
        parts[part_of.get(number, "train")].append(slide.name)
    return parts


def _groups(corpus: Corpus, by: str) -> list[list[int]]:
    """Positions of the slides that must stay together, in the order of their first slide."""
    parent = list(range(len(corpus)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    def join(members: list[int]) -> None:
        for member in members[1:]:
            parent[root(member)] = root(members[0])

    donors: dict[str, list[int]] = {}
    studies: dict[str, list[int]] = {}
    for number, (slide, known) in enumerate(zip(corpus, corpus.details, strict=True)):
        if slide.donor:
            donors.setdefault(slide.donor, []).append(number)
        if known.get("study"):
            studies.setdefault(known["study"], []).append(number)
    for members in donors.values():
        join(members)
    for members in studies.values():
        if by == "study" or not all(corpus[member].donor for member in members):
            join(members)
    position = {slide.name: number for number, slide in enumerate(corpus)}
    for name, others in duplicates(list(corpus), corpus.details).items():
        join([position[name], *(position[other] for other in others)])
    groups: dict[int, list[int]] = {}
    for number in range(len(corpus)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())
