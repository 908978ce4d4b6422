from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import random_slide

from stimage.data import Corpus, split_by_donor

GENES = [f"gene{i}" for i in range(20)]


def corpus_of(donors, studies, copies=()):
    """Slides of some donors and studies; ``copies`` names those that have the counts of another."""
    slides = [random_slide(8, 7, n_genes=20, name=f"s{i}", seed=dict(copies).get(i, i)) for i in range(len(donors))]
    # Deep enough for sites to differ.
    slides = [
        replace(slide, donor=donor, library_size=50 * slide.library_size)
        for slide, donor in zip(slides, donors, strict=True)
    ]
    return Corpus(slides, GENES, details=[{"study": study} if study else {} for study in studies])


@settings(max_examples=60, deadline=None)
@given(
    donors=st.lists(st.sampled_from(["", "", "a", "b", "c", "d", "e"]), min_size=6, max_size=14),
    seed=st.integers(0, 5),
    by=st.sampled_from(["donor", "study"]),
    data=st.data(),
)
def test_nothing_is_on_two_sides(donors, seed, by, data):
    studies = data.draw(st.lists(st.sampled_from(["", "p", "q", "r"]), min_size=len(donors), max_size=len(donors)))
    copies = [(len(donors) - 1, 0)] if data.draw(st.booleans()) else []
    corpus = corpus_of(donors, studies, copies)
    try:
        parts = split_by_donor(corpus, by=by, validation_size=0.15, test_size=0.15, seed=seed)
    except ValueError as error:
        assert "groups of slides that must stay together" in str(error)
        return
    side = {name: part for part, names in parts.items() for name in names}
    assert list(side) and sorted(side) == sorted(slide.name for slide in corpus)
    assert all(parts.values())
    for i in range(len(donors)):
        for j in range(i):
            same_study = studies[i] and studies[i] == studies[j]
            unknown = any(not d for d, s in zip(donors, studies, strict=True) if s == studies[i])
            together = (donors[i] and donors[i] == donors[j]) or (same_study and (by == "study" or unknown))
            if together or (copies and {i, j} == {len(donors) - 1, 0}):
                assert side[f"s{i}"] == side[f"s{j}"]
    assert parts == split_by_donor(corpus, by=by, validation_size=0.15, test_size=0.15, seed=seed)


def test_sizes():
    corpus = corpus_of([str(i) for i in range(40)], [""] * 40)
    n_sites = {slide.name: slide.n_sites for slide in corpus}
    parts = split_by_donor(corpus, validation_size=0.1, test_size=0.25)
    for part, size in (("validation", 0.1), ("test", 0.25)):
        share = sum(n_sites[name] for name in parts[part]) / corpus.n_sites
        assert 0.8 * size < share < 1.5 * size
    assert split_by_donor(corpus, seed=1) != split_by_donor(corpus, seed=2)
    only = split_by_donor(corpus, validation_size=0, test_size=0.1)
    assert only["validation"] == []


def test_one_large_donor_stays_in_training():
    corpus = corpus_of(["big"] * 10 + ["a", "b"], [""] * 12)
    parts = split_by_donor(corpus)
    assert parts["train"] == [f"s{i}" for i in range(10)]
    assert sorted(parts["validation"] + parts["test"]) == ["s10", "s11"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_size": 0.6, "test_size": 0.4}, "leave something to training"),
        ({"by": "slide"}, "`by` must be one of 'donor', 'study'"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_wrong_options(options, message):
    corpus = corpus_of(list("abcd"), [""] * 4)
    with pytest.raises(ValueError, match=message):
        split_by_donor(corpus, **options)


def test_too_few_donors():
    corpus = corpus_of(["a", "a", "b"], [""] * 3)
    with pytest.raises(ValueError, match="has 2 groups of slides that must stay together, 3 parts need as many"):
        split_by_donor(corpus)
    assert np.sum([len(names) for names in split_by_donor(corpus, test_size=0).values()]) == 3
