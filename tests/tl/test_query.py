"""Marker genes are looked up by the image: against the expression that was measured there."""

import anndata as ad
import numpy as np
import pytest
from helpers import assert_unchanged
from stained import aligner_of, apart, prepared, stained_tissue

from stimage import pp, tl
from stimage.models import STImage

GENES = [f"GENE{number:05}" for number in range(1, 101)]


@pytest.fixture(scope="module")
def sections():
    return apart(stained_tissue(14, 12, seed=0, n_genes=120, n_domains=4, n_slides=3, library_size=20_000.0))


@pytest.fixture(scope="module")
def learned(sections):
    return aligner_of(
        sections[:2], genes=GENES, training={"max_epochs": 10, "batch_size": 64, "plan_kwargs": {"learning_rate": 5e-4}}
    )


def apart_again(sections):
    """Sections in one AnnData, with grid and niches of each."""
    joined = ad.concat(sections, uns_merge=None)
    joined.uns["spatial"] = {key: value for part in sections for key, value in part.uns["spatial"].items()}
    return prepared(joined, slide_key="slide")


def expression(adata):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, adata.var_names.get_indexer(GENES)]


def markers(adata, n_genes=8):
    """Genes that are higher in one part of the training slide, as people take them."""
    values = expression(adata)
    direction = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][0]
    order = np.argsort(direction)
    return [GENES[number] for number in order[-n_genes:]], [GENES[number] for number in order[:n_genes]]


def test_found_where_they_are_expressed_on_a_new_slide(learned, sections):
    for genes in markers(sections[0]):
        new = sections[2].copy()
        new.X = 0 * new.X
        tl.query(new, learned, genes)
        measured = expression(sections[2])[:, [GENES.index(gene) for gene in genes]].mean(axis=1)
        assert np.corrcoef(new.obs["stimage_query"], measured)[0, 1] > 0.3
        chance = measured[np.random.default_rng(0).permutation(len(measured))]
        assert abs(np.corrcoef(new.obs["stimage_query"], chance)[0, 1]) < 0.2


def test_what_the_regression_predicts(learned, sections):
    """Against predictions, which are shrunk, and cut at 0 where a gene is rare."""
    adata = sections[2].copy()
    predicted = learned.predict_expression(adata).astype(float)
    first, second = np.argsort(-predicted.min(axis=0))[:2]
    assert predicted[:, [first, second]].min() > 0
    with assert_unchanged(adata):
        tl.query(adata, learned, {GENES[first]: 2.0, GENES[second]: -1.0})
        found, notes = adata.obs.pop("stimage_query"), adata.uns["stimage"].pop("stimage_query")
        if not adata.uns["stimage"]:
            del adata.uns["stimage"]
    assert dict(zip(notes["genes"], notes["weights"], strict=True)) == {GENES[first]: 2.0, GENES[second]: -1.0}
    wanted = 2 * predicted[:, first] - predicted[:, second]
    np.testing.assert_allclose(found, (wanted - wanted.mean()) / wanted.std(), atol=5e-3)


def test_each_slide_by_itself(learned, sections):
    both = tl.query(apart_again(sections[1:]), learned, GENES[:3], copy=True).obs["stimage_query"].to_numpy()
    alone = [tl.query(section, learned, GENES[:3], copy=True).obs["stimage_query"] for section in sections[1:]]
    np.testing.assert_allclose(both, np.concatenate(alone), atol=1e-3)


def test_unknown_genes_are_named(learned, sections):
    with pytest.warns(UserWarning, match="does not know 'OTHER': only 'GENE00001' are looked up"):
        found = tl.query(sections[2], learned, ["OTHER", GENES[0]], copy=True).obs["stimage_query"]
    np.testing.assert_array_equal(found, tl.query(sections[2], learned, GENES[0], copy=True).obs["stimage_query"])


def test_the_opposite_is_found_elsewhere(learned, sections):
    more, less = (
        tl.query(sections[2], learned, dict.fromkeys(markers(sections[0])[0], sign), copy=True).obs["stimage_query"]
        for sign in (1.0, -1.0)
    )
    assert np.corrcoef(more, less)[0, 1] < -0.5


def test_places_of_a_bare_image(learned, sections):
    (library,) = sections[2].uns["spatial"].values()
    pixels = library["images"]["hires"]
    places = tl.predict_expression(None, learned, image=pixels, micrometres_per_pixel=12.5, spot_distance=200.0)
    pp.build_niches(places)
    tl.query(places, learned, markers(sections[0])[0])
    assert places.obs["stimage_query"].std() > 0.01


@pytest.mark.parametrize(
    ("genes", "error", "message"),
    [
        (["OTHER"], KeyError, "knows none of 'OTHER'"),
        ([], KeyError, "knows none"),
        ({GENES[0]: 0.0}, ValueError, "all 0 or not finite"),
        ({GENES[0]: np.nan}, ValueError, "all 0 or not finite"),
        (3, TypeError, "`genes` must be names"),
    ],
)
def test_refused(learned, sections, genes, error, message):
    with assert_unchanged(sections[2]), pytest.raises(error, match=message):
        tl.query(sections[2], learned, genes)


def test_frozen_gene_encoders_do_not_matter(sections):
    frozen = STImage(sections[0], window=6, n_pool_genes=40, n_genes=20)
    models = [aligner_of(sections[:1], genes=GENES, gene_encoder=encoder) for encoder in (None, frozen)]
    first, second = (tl.query(sections[2], model, GENES[:3], copy=True).obs["stimage_query"] for model in models)
    np.testing.assert_allclose(first, second, atol=1e-4)
