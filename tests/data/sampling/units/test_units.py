from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from slides import random_slide, within_binomial_bound

from stimage.data import (
    Corpus,
    NearestSites,
    SampleUnit,
    SpotDataset,
    SpotSampler,
    WindowDataModule,
    WindowSpec,
    macro_domains,
    site_positions,
)

UNITS = ["spot", "neighborhood", "slice"]
SPEC = WindowSpec(window=6, n_genes=4, mask_ratio=0.5)


def unit_of(name, **options):
    return SampleUnit(name, **{"n_neighbors": 5, "n_macro_domains": 3, **options})


def sites_of(slide, sample):
    """Which site each token of a sample shows (-1 for padding), found by its position."""
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    found = []
    for place, observed in zip(sample.positions, sample.observed, strict=True):
        (matches,) = np.nonzero(np.abs(positions - place).max(axis=1) < 1e-4)
        found.append(int(matches[0]) if observed else -1)
    return np.array(found)


def nearest_by_hand(slide, site, n_neighbors):
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(float)
    others = [other for other in np.flatnonzero(slide.active) if other != site]
    distance = {other: round(float(np.linalg.norm(positions[other] - positions[site])), 4) for other in others}
    chosen = sorted(others, key=lambda other: (distance[other], other))[:n_neighbors]
    return chosen + [-1] * (n_neighbors - len(chosen))


@pytest.mark.parametrize("layout", ["hex", "square"])
@pytest.mark.parametrize("n_neighbors", [1, 6, 16, 100])
def test_nearest_sites(layout, n_neighbors):
    slide = random_slide(8, 9, layout=layout, parity=1, seed=n_neighbors)
    nearest = NearestSites(slide)(np.arange(slide.n_sites), n_neighbors)
    expected = [nearest_by_hand(slide, site, n_neighbors) for site in range(slide.n_sites)]
    np.testing.assert_array_equal(nearest, expected)


def test_macro_domains_part_the_slide_by_expression():
    """Two halves that differ in expression, on a slide three times as high as wide."""
    slide = random_slide(18, 6, n_genes=30, holes=0.1, empty=0.1)
    left = slide.site_index[:, 1] < 3
    expression = slide.expression.toarray()
    expression[left, :10] += 4
    slide = replace(slide, expression=sparse.csr_matrix(expression))
    domains = macro_domains(slide, 2)
    assert (domains[~slide.active] == -1).all()
    active = slide.active
    assert len({(side, domain) for side, domain in zip(left[active], domains[active], strict=True)}) == 2


@pytest.mark.parametrize("n_domains", [1, 4, 1000])
def test_macro_domains_of_a_seed(n_domains):
    slide = random_slide(9, 8, n_genes=12)
    domains = macro_domains(slide, n_domains, seed=3)
    np.testing.assert_array_equal(macro_domains(slide, n_domains, seed=3), domains)
    found = np.unique(domains[slide.active])
    np.testing.assert_array_equal(found, np.arange(len(found)))
    assert len(found) <= min(n_domains, slide.active.sum())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("gene_selection", ["weighted", "hvg", "random"])
def test_a_sample_holds_what_the_slide_says(unit, gene_selection):
    slide = random_slide(10, 9, n_genes=8, unmeasured=2)
    spec = replace(SPEC, gene_selection=gene_selection)
    sampler = SpotSampler(slide, unit_of(unit), seed=0)
    sample = sampler.draw(spec, np.random.default_rng(1))
    sites = sites_of(slide, sample)
    assert (sites >= 0).all()
    assert slide.active[sites].all()
    centred = slide.expression.toarray() - slide.gene_mean
    np.testing.assert_allclose(sample.expression, centred[sites][:, sample.genes], atol=1e-5)
    assert sample.genes.max() < 6
    assert sample.gene_valid.all()
    if gene_selection == "hvg":
        variance = slide.expression.toarray()[sites].var(axis=0)
        assert set(sample.genes) == set(np.argsort(-variance[:6])[:4])

    if unit == "neighborhood":
        groups = sites.reshape(6, 6)
        for centre, *neighbors in groups:
            assert neighbors == nearest_by_hand(slide, centre, 5)
        assert len(set(groups[:, 0])) == 6
        np.testing.assert_array_equal(sample.group, np.repeat(np.arange(6), 6))
        assert not sample.hidden.reshape(6, 6, -1)[:, 1:].any()
        assert sample.hidden.reshape(6, 6, -1)[:, 0].any()
    else:
        assert len(set(sites)) == 36
        assert sample.hidden.any()
    if unit == "slice":
        np.testing.assert_array_equal(sample.group, macro_domains(slide, 3, seed=0)[sites])


@pytest.mark.parametrize("unit", UNITS)
def test_small_slides_are_padded(unit):
    slide = random_slide(2, 2, holes=0, empty=0, unmeasured=4)
    sample = SpotSampler(slide, unit_of(unit), seed=0).draw(SPEC, np.random.default_rng(0))
    sites = sites_of(slide, sample)
    # Each of the four spots once, in a neighbourhood with the three others as often.
    assert Counter(sites[sites >= 0].tolist()) == dict.fromkeys(range(4), 4 if unit == "neighborhood" else 1)
    assert not sample.expression[~sample.observed].any()
    assert not sample.hidden[~sample.observed].any()
    assert not sample.hidden[:, ~sample.gene_valid].any()
    assert sample.gene_valid.sum() == 2


@pytest.mark.parametrize("unit", UNITS)
def test_hidden_share(unit):
    slide = random_slide(20, 20, n_genes=40)
    spec = WindowSpec(window=14, n_genes=32, mask_ratio=0.3)
    sample = SpotSampler(slide, unit_of(unit), seed=0).draw(spec, np.random.default_rng(0))
    scored = sample.hidden[:: 6 if unit == "neighborhood" else 1]
    assert abs(scored.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / scored.size)


def test_every_spot_comes_up_alike_often():
    slide = random_slide(9, 9)
    dataset = SpotDataset([slide], WindowSpec(window=2, n_genes=2), unit_of("spot"), seed=0)
    counts = Counter(site for index in range(1000) for site in sites_of(slide, dataset[index]).tolist())
    n_active = int(slide.active.sum())
    seen = np.array([counts[site] for site in np.flatnonzero(slide.active)])
    assert seen.sum() == 4000
    assert within_binomial_bound(seen, 1000, np.full(n_active, 4 / n_active))


@pytest.mark.parametrize("unit", UNITS)
def test_batches_depend_on_seed_and_epoch_alone(unit):
    slides = [random_slide(12, 10 + i, name=str(i), seed=i) for i in range(2)]

    def batches(num_workers=0, seed=0, epoch=0):
        options = {"batch_size": 3, "windows_per_epoch": 5, "num_workers": num_workers, "seed": seed}
        loader = WindowDataModule(Corpus(slides, list("abcdef")), SPEC, unit=unit_of(unit), **options)
        loader = loader.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        return list(loader)

    def equal(first, second):
        return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)

    first = batches()
    assert [len(batch["group"]) for batch in first] == [3, 2]
    assert equal(first, batches())
    assert equal(first, batches(num_workers=2))
    assert not equal(first, batches(seed=1))
    assert not equal(first, batches(epoch=1))


@pytest.mark.parametrize("window", [5, 8, 16])
@pytest.mark.parametrize("unit", UNITS)
def test_as_many_tokens_as_a_window(unit, window):
    slide = random_slide(40, 30)
    sample = SpotSampler(slide, SampleUnit(unit), seed=0).draw(
        WindowSpec(window=window, n_genes=2), np.random.default_rng(0)
    )
    assert sample.observed.all()
    assert abs(len(sample.observed) - window**2) <= (17 / 2 if unit == "neighborhood" else 0)


def test_slides_of_one_spot_are_left_out():
    one, many = random_slide(1, 1, name="one"), random_slide(6, 6, name="many")
    one = replace(one, library_size=np.ones(1, dtype=np.float32))
    dataset = SpotDataset([one, many], SPEC, unit_of("spot"), seed=0)
    assert all(dataset[index].observed.sum() > 1 for index in range(20))
    with pytest.raises(ValueError, match="No slide has data in at least two sites"):
        SpotDataset([one], SPEC, unit_of("spot"), seed=0)
