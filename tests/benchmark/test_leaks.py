"""A slide is recognised whatever was filtered or renamed, other slides of its study are not, and doubt is said."""

from itertools import permutations

import numpy as np
import pytest
from anndata import read_h5ad
from scipy import sparse

from stimage import datasets
from stimage.benchmark._leaks import EvaluatedSlide, find_leaks
from stimage.data.slides._spot_sketch import (
    CountSketch,
    count_classes,
    gene_hashes,
    name_hashes,
    read_sketch,
    spot_hashes,
    spot_sketch,
)

# Slides of a study, and how many filters each study gets: 200 in all, and as many of the first alone.
STUDIES = {
    "her2st": ([f"her2st_{name}" for name in ("A1", "A2", "B1", "B2", "C1", "D1", "E1")], 200),
    "breast, consecutive sections": ([f"breast_ST_Stahl_layer{number}" for number in (1, 2, 3)], 60),
    # The first two sections of the heart share 85 of 91 spots: one of them is enough.
    "heart": (["heart_dev_1_CN73_E1", "heart_dev_3_CN73_D2", "heart_dev_4_CN73_C2"], 60),
    "DLPFC": (["DLPFC_151673", "DLPFC_151674", "DLPFC_Br8325_ant"], 40),
    "STARmap mPFC": (["STARmap_mPFC_BZ5", "STARmap_mPFC_BZ9"], 40),
}


def slide_of(adata, name):
    return EvaluatedSlide(
        name=name,
        donor="",
        counts_sha256=f"of {name}, as it is tested",
        names=adata.obs_names.to_numpy(),
        counts=sparse.csr_matrix(adata.X),
        genes=adata.var_names.to_numpy(),
        coordinates=adata.obsm["spatial"],
    )


def note_of(slide):
    """What a manifest says of a slide."""
    sketch = spot_sketch(
        slide.names, slide.counts.sum(axis=1).A1, slide.counts.__getitem__, slide.genes, slide.coordinates
    )
    return {"name": slide.name, "counts_sha256": "of the training slide", "donor": "", "spot_sketch": sketch}


def part_of(slide, spots, columns, **changes):
    fields = {name: getattr(slide, name) for name in ("name", "donor", "counts_sha256")}
    fields |= {"names": slide.names[spots], "genes": slide.genes[columns], "coordinates": slide.coordinates[spots]}
    return EvaluatedSlide(**{**fields, "counts": slide.counts[spots][:, columns], **changes})


def filtered(slide, rng):
    """A slide after one of many ways to filter and to rename."""
    counts = slide.counts
    genes = np.arange(counts.shape[1])
    totals, detected = np.asarray(counts.sum(axis=0)).ravel(), counts.getnnz(axis=0)
    match rng.integers(5):
        case 0:
            genes = np.sort(np.argsort(totals)[: -int(rng.integers(1, 20))])
        case 1:
            genes = np.flatnonzero(detected >= rng.integers(2, 20))
        case 2:
            genes = np.flatnonzero(rng.random(len(genes)) < rng.uniform(0.4, 1))
        case 3:
            # The most variable ones, as far as counts tell.
            square = np.asarray(counts.multiply(counts).mean(axis=0)).ravel()
            spread = (square - (totals / counts.shape[0]) ** 2) / np.maximum(totals, 1)
            genes = np.sort(np.argsort(-spread)[: len(genes) // 4])
    spots = np.arange(counts.shape[0])
    match rng.integers(4):
        case 0:
            spots = rng.permutation(spots)[: int(rng.uniform(0.3, 1) * len(spots))]
        case 1:
            middle = np.quantile(slide.coordinates[:, 0], rng.uniform(0.4, 0.6))
            spots = np.flatnonzero(slide.coordinates[:, 0] < middle)
        case 2:
            per_spot = np.asarray(counts[:, genes].sum(axis=1)).ravel()
            spots = np.flatnonzero(per_spot >= np.quantile(per_spot, rng.uniform(0, 0.5)))
    changes = {}
    if rng.random() < 0.5:
        # Turned about its middle, as a viewer would, and in other units.
        turn = rng.uniform(0, 2 * np.pi)
        matrix = rng.uniform(0.1, 10) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        places = slide.coordinates[spots]
        changes["coordinates"] = (places - places.mean(axis=0)) @ matrix
    if rng.random() < 0.7:
        changes["names"] = np.array([f"spot {number}" for number in rng.permutation(len(spots))], dtype=object)
    if rng.random() < 0.3:
        changes["coordinates"] = None
    if rng.random() < 0.3:
        changes["genes"] = np.array([gene.lower() for gene in slide.genes[genes]], dtype=object)
    return part_of(slide, spots, genes, **changes)


@pytest.fixture(scope="module")
def simulated():
    """Slides of one study: the same tissue, genes and sites, other counts."""
    both = datasets.simulate_tissue(n_rows=22, n_cols=20, n_genes=400, n_slides=4, seed=1)
    return [
        slide_of(both[both.obs["slide"] == name], str(name))
        for name in both.obs["slide"].astype("category").cat.categories
    ]


def check_filters(slides, n_filters, seed):
    rng, notes = np.random.default_rng(seed), [note_of(slide) for slide in slides]
    for number in range(n_filters):
        own = int(rng.integers(len(slides)))
        tested = filtered(slides[own], rng)
        found, _ = find_leaks([tested], [notes[own]])
        assert len(found) == 1, (number, slides[own].name, tested.counts.shape)
        assert find_leaks([tested], notes[:own] + notes[own + 1 :])[0] == [], (number, slides[own].name)


def cut_down(slide, rng):
    """A slide of which little is left, under other names."""
    n_genes = int(np.exp(rng.uniform(np.log(5), np.log(slide.counts.shape[1]))))
    n_spots = int(np.exp(rng.uniform(np.log(5), np.log(slide.counts.shape[0]))))
    genes = np.sort(rng.permutation(slide.counts.shape[1])[:n_genes])
    spots = rng.permutation(slide.counts.shape[0])[:n_spots]
    names = np.array([f"spot {number}" for number in range(n_spots)], dtype=object)
    return part_of(slide, spots, genes, names=names, coordinates=None)


def check_that_no_is_not_said(slides, n_filters, seed):
    rng, notes = np.random.default_rng(seed), [note_of(slide) for slide in slides]
    kept, outcomes = [], []
    for _ in range(n_filters):
        own = int(rng.integers(len(slides)))
        tested = cut_down(slides[own], rng)
        found, unsure = find_leaks([tested], [notes[own]])
        kept.append(tested.counts.shape)
        outcomes.append("found" if found else "unsure" if unsure else "no")
        assert find_leaks([tested], notes[:own] + notes[own + 1 :])[0] == []
    assert not [shape for shape, outcome in zip(kept, outcomes, strict=True) if outcome == "no"]
    assert {"found", "unsure"} <= set(outcomes)


def test_of_what_was_cut_down_it_is_never_said_that_it_is_new(simulated):
    check_that_no_is_not_said(simulated, 200, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_of_real_slides_that_were_cut_down_it_is_never_said_that_they_are_new(shared_data, study):
    slides = [slide_of(read_h5ad(shared_data / name / f"{name}.h5ad"), name) for name in STUDIES[study][0]]
    check_that_no_is_not_said(slides, 200, seed=1)


def test_filtered_slides_are_recognised_and_others_are_not(simulated):
    check_filters(simulated, 40, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_filtered_real_slides_are_recognised_and_others_are_not(shared_data, study):
    names, n_filters = STUDIES[study]
    slides = [slide_of(read_h5ad(shared_data / name / f"{name}.h5ad"), name) for name in names]
    check_filters(slides, n_filters, seed=0)


@pytest.mark.slow
def test_all_pairs_of_real_slides(shared_data):
    # Some slides are there twice, with and without their image.
    files = [file for file in sorted(shared_data.glob("*/*.h5ad")) if not file.parent.name.startswith("img-her2st")]
    slides = [slide_of(read_h5ad(file), file.parent.name) for file in files]
    notes = {slide.name: note_of(slide) for slide in slides}
    alarms = {(a.name, name) for a in slides for name, note in notes.items() if find_leaks([a], [note])[0]}
    hearts = {"heart_dev_1_CN73_E1", "heart_dev_2_CN73_E2"}
    assert alarms == {(name, name) for name in notes} | set(permutations(sorted(hearts), 2))


@pytest.mark.parametrize("kept", ["without the five most abundant genes", "without genes in fewer than 10 spots"])
def test_a_real_slide_after_the_filters_of_any_workflow(shared_data, kept):
    slide = slide_of(read_h5ad(shared_data / "her2st_B1" / "her2st_B1.h5ad"), "her2st_B1")
    totals = np.asarray(slide.counts.sum(axis=0)).ravel()
    genes = np.argsort(totals)[:-5] if "abundant" in kept else np.flatnonzero(slide.counts.getnnz(axis=0) >= 10)
    found, unsure = find_leaks([part_of(slide, np.arange(len(slide.names)), np.sort(genes))], [note_of(slide)])
    assert found == ["'her2st_B1' (same counts of genes in the same spots as 'her2st_B1')"]
    assert unsure == []


def test_two_real_slides_that_share_most_spots(shared_data):
    names = ["heart_dev_1_CN73_E1", "heart_dev_2_CN73_E2", "heart_dev_3_CN73_D2"]
    slides = [slide_of(read_h5ad(shared_data / name / f"{name}.h5ad"), name) for name in names]
    alarms = {(a.name, b.name): bool(find_leaks([a], [note_of(b)])[0]) for a, b in permutations(slides, 2)}
    assert {pair for pair, alarm in alarms.items() if alarm} == {(names[0], names[1]), (names[1], names[0])}


def test_what_cannot_be_told_is_said(simulated):
    slide, other = simulated[:2]
    everything = np.arange(len(slide.names))
    renamed = {"names": np.array([f"spot {number}" for number in everything], dtype=object)}
    # Genes of other names: nothing to compare.
    ensembl = part_of(slide, everything, slice(None), genes=np.array([f"ENSG{n:011d}" for n in range(400)]), **renamed)
    assert find_leaks([ensembl], [note_of(slide)]) == (
        [],
        [f"'{slide.name}' ('{slide.name}': 0 of 96 sketched genes in {len(everything)} spots are too few to tell)"],
    )
    # A handful of genes, or of spots.
    few_genes = part_of(slide, everything, np.arange(5), **renamed)
    few_spots = part_of(slide, everything[:4], np.arange(400), names=renamed["names"][:4])
    for part in (few_genes, few_spots):
        found, unsure = find_leaks([part], [note_of(slide)])
        assert len(found) + len(unsure) == 1
    # A model that was saved before genes were sketched.
    old = {**note_of(other), "spot_sketch": " ".join(note_of(other)["spot_sketch"].split()[:64])}
    assert find_leaks([slide], [old])[1] == [
        f"'{slide.name}' ('{other.name}': noted without counts of genes, by an older version)"
    ]
    # Another slide of the study, with all its genes, is another slide.
    assert find_leaks([slide], [note_of(other)]) == ([], [])


def test_other_counts_at_the_same_places_are_not_sure_to_be_others(simulated):
    slide = simulated[0]
    rng = np.random.default_rng(0)
    everything = np.arange(len(slide.names))
    # Coordinates of an image, not of a lattice.
    slide = part_of(slide, everything, slice(None), coordinates=slide.coordinates + rng.random((len(everything), 2)))
    thinned = sparse.csr_matrix(rng.binomial(slide.counts.toarray().astype(int), 0.7).astype(np.float32))
    changed = part_of(slide, everything, slice(None), counts=thinned)
    assert find_leaks([changed], [note_of(slide)]) == (
        [],
        [f"'{slide.name}' ('{slide.name}': same names and coordinates, other counts)"],
    )


def test_a_sketch_by_hand(simulated):
    slide = simulated[0]
    text = note_of(slide)["spot_sketch"]
    assert len(text) < 7000
    pairs, sketch = read_sketch(text)
    totals = np.asarray(slide.counts.sum(axis=1)).ravel()
    assert pairs == set(sorted(spot_hashes(slide.names, totals))[:64])
    assert sketch.n_observations == len(slide.names)
    assert sketch.classes.shape == (64, 96)
    hashes = gene_hashes(slide.genes).tolist()
    rows = [int(np.flatnonzero(name_hashes(slide.names) == name)[0]) for name in sketch.names]
    columns = [hashes.index(gene) for gene in sketch.genes.tolist()]
    expected = count_classes(slide.counts[rows][:, columns].toarray(), sketch.genes)
    np.testing.assert_array_equal(sketch.classes, expected)
    assert (totals[rows] > np.median(totals)).sum() >= 32
    # The order of observations and genes does not matter.
    rng = np.random.default_rng(0)
    shuffled = part_of(slide, rng.permutation(len(slide.names)), rng.permutation(400))
    again = read_sketch(note_of(shuffled)["spot_sketch"])[1]
    assert set(again.genes.tolist()) == set(sketch.genes.tolist())
    assert set(again.names.tolist()) == set(sketch.names.tolist())


@pytest.mark.parametrize("damage", [lambda text: text[:-8], lambda text: text[:4], lambda text: "?" + text[1:]])
def test_damaged_sketches(simulated, damage):
    part = note_of(simulated[0])["spot_sketch"].split()[-1].removeprefix("counts:")
    assert CountSketch.from_text(part).classes.max() <= 15
    with pytest.raises(ValueError, match="the sketch of a slide's counts is (truncated|damaged)"):
        CountSketch.from_text(damage(part))


def test_names_of_genes():
    assert len(set(gene_hashes(["ENSG00000000003", "ensg00000000003.15", "Actb", "ACTB"]).tolist())) == 2
