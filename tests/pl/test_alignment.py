import re

import anndata as ad
import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from matplotlib.colors import to_hex
from matplotlib.image import imread
from PIL import Image
from scipy import sparse
from scipy.stats import pearsonr
from stained import QUIET, TINY, tiny_encoder

import stimage as sti
from stimage.models import PatchSpec, STAlign

SCALE = 0.5
PITCH = 137.0  # of simulated tissue
BLACK, FOUND, OWN = "#000000", "#56b4e9", "#d55e00"


class GivenVectors(STAlign):
    """An aligner whose vectors are known: those of each spot, by its name."""

    def __init__(self, adata, image, gene):
        self.image_encoder = torch.nn.Identity()
        self.patches = PatchSpec()
        self.given = {
            "image": dict(zip(adata.obs_names, image, strict=True)),
            "gene": dict(zip(adata.obs_names, gene, strict=True)),
        }

    def get_latent_representation(self, data, *, modality, level, image_dir, cache_dir):
        assert level == "spot"
        return np.array([self.given[modality][name] for name in data.obs_names])


def angles(degrees):
    radians = np.deg2rad(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)])


def library(seed=0):
    """A coarse random pattern, so that a patch from another place looks different."""
    coarse = np.random.default_rng(seed).integers(60, 256, (26, 21, 3), dtype=np.uint8)
    return {
        "images": {"hires": np.asarray(Image.fromarray(coarse).resize((1050, 1300), Image.Resampling.BILINEAR))},
        "scalefactors": {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": 70.0},
    }


def log1p_cp10k(counts):
    """Expression of every spot, one after another."""
    return np.array([np.log1p(row / max(row.sum(), 1) * 1e4) for row in counts.toarray().astype(float)])


def predict(adata, seed=0):
    """Genes predicted the worse the later they come; the first two are not."""
    rng = np.random.default_rng(seed)
    truth = log1p_cp10k(adata.X)
    noise = rng.normal(size=adata.shape) * truth.std(axis=0) * np.linspace(0.2, 3, adata.n_vars)
    predicted = (2 + 0.3 * (truth + noise)).astype(np.float32)
    predicted[:, :2] = np.nan
    adata.layers["stimage_predicted"] = predicted


@pytest.fixture
def predicted(tissue):
    tissue.obsm["spatial"] = tissue.obsm["spatial"] - tissue.obsm["spatial"].min(axis=0) + 100
    tissue.uns["spatial"] = {"section": library()}
    predict(tissue)
    return tissue


@pytest.fixture
def aligner(predicted):
    """Gene vectors turn by one degree from spot to spot; image vectors point at the gene vector two spots on."""
    degrees = np.arange(predicted.n_obs)
    return GivenVectors(predicted, angles(degrees + 2.3), angles(degrees))


def gene_panels(figure):
    """Title and axes of measured genes, in the order of genes, then of predicted ones."""
    panels = [ax for ax in (figure.subfigs or [figure])[0].axes if ax.get_title()]
    return [(ax.get_title(), ax) for ax in panels]


def values(ax):
    (spots,) = ax.collections
    return spots.get_offsets(), np.ma.filled(spots.get_array().astype(float), np.nan), spots.get_clim()


def retrieval(figure):
    """For each query: its panel of the slide and its patches, the query's first."""
    patches = [ax for ax in figure.subfigs[1].axes if ax.images]
    maps = [ax for ax in figure.subfigs[1].axes if not ax.images]
    n = len(patches) // len(maps)
    return [(ax, patches[n * row : n * (row + 1)]) for row, ax in enumerate(maps)]


def frame(ax):
    (color,) = {to_hex(spine.get_edgecolor()) for spine in ax.spines.values()}
    return color


def shows(ax, adata, spot, width):
    """Whether a panel shows the image of the square around a spot, by the nearest pixel of the whole image."""
    pixels = adata.uns["spatial"]["section"]["images"]["hires"].astype(float)
    shown = ax.images[0].get_array().astype(float)
    offset = ((np.arange(len(shown)) + 0.5) / len(shown) - 0.5) * width
    x, y = (np.floor((centre + offset) * SCALE).astype(int) for centre in adata.obsm["spatial"][spot])
    return np.abs(shown - pixels[np.ix_(y, x)]).mean() < 6


def test_images(predicted, aligner, assert_looks_like):
    assert_looks_like(sti.pl.alignment(predicted, genes=predicted.var_names[[5, 20]]), "alignment_genes")
    figure = sti.pl.alignment(predicted, genes=predicted.var_names[5], aligner=aligner, n_neighbors=3)
    assert_looks_like(figure, "alignment_retrieval")


def test_many_genes_are_shown_in_rows(predicted):
    genes = predicted.var_names[2:7]
    figure = sti.pl.alignment(predicted, genes=genes)
    figure.draw_without_rendering()
    places = {title: ax.get_position() for title, ax in gene_panels(figure) if title in genes}
    assert list(places) == list(genes)
    tops = [round(place.y1, 3) for place in places.values()]
    assert tops[0] == tops[1] == tops[2] > tops[3] == tops[4]
    assert len(gene_panels(figure)) == 10


@pytest.mark.parametrize("is_sparse", [True, False])
def test_panels_show_measured_and_predicted_expression(predicted, is_sparse):
    counts = predicted.X.toarray()
    counts[7] = 0
    predicted.X = sparse.csr_matrix(counts) if is_sparse else counts
    genes = predicted.var_names[[4, 12]].tolist()
    with assert_unchanged(predicted):
        figure = sti.pl.alignment(predicted, genes=genes)
    truth = log1p_cp10k(sparse.csr_matrix(counts))
    seen = np.arange(predicted.n_obs) != 7
    measured_4, measured_12, predicted_4, predicted_12 = gene_panels(figure)
    for column, measured, prediction in ((4, measured_4, predicted_4), (12, measured_12, predicted_12)):
        assert measured[0] == predicted.var_names[column]
        offsets, found, limits = values(measured[1])
        np.testing.assert_allclose(offsets, predicted.obsm["spatial"])
        np.testing.assert_allclose(found, np.where(seen, truth[:, column], np.nan), rtol=1e-6)
        np.testing.assert_allclose(limits, np.quantile(truth[seen, column], [0.01, 0.99]))
        layer = predicted.layers["stimage_predicted"][:, column]
        offsets, found, limits = values(prediction[1])
        np.testing.assert_allclose(offsets, predicted.obsm["spatial"])
        np.testing.assert_allclose(found, layer, rtol=1e-6)
        np.testing.assert_allclose(limits, np.quantile(layer, [0.01, 0.99]), rtol=1e-6)
        r = pearsonr(truth[seen, column], layer[seen]).statistic
        assert prediction[0] == f"$r$ = {r:.2f}"
        assert measured[1].get_ylim()[0] > measured[1].get_ylim()[1]
        assert measured[1].get_aspect() == 1


def test_default_genes_are_the_best_predicted_of_those_that_vary_most():
    adata = sti.datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=120, n_domains=3)
    sti.pp.compact_grid(adata)
    truth = log1p_cp10k(adata.X)
    rng = np.random.default_rng(1)
    prediction = truth + rng.normal(size=truth.shape) * rng.uniform(0.5, 2, truth.shape[1])
    by_variance = np.argsort(-truth.var(axis=0))
    prediction[:, by_variance[0]] = np.nan  # not known to the aligner
    prediction[:, by_variance[1]] = 1.0  # the same everywhere: no correlation
    prediction[:, by_variance[51:]] = truth[:, by_variance[51:]]  # perfect, of genes that hardly vary
    adata.layers["stimage_predicted"] = prediction
    best = sorted(by_variance[2:51], key=lambda gene: -pearsonr(truth[:, gene], prediction[:, gene]).statistic)[:3]
    titles = [title for title, _ in gene_panels(sti.pl.alignment(adata))]
    assert titles[:3] == adata.var_names[best].tolist()
    assert [float(re.search(r"= (.*)", title)[1]) for title in titles[3:]] == [
        round(pearsonr(truth[:, gene], prediction[:, gene]).statistic, 2) for gene in best
    ]
    _, (title, _) = gene_panels(sti.pl.alignment(adata, genes=adata.var_names[by_variance[1]]))
    assert title == "$r$ undefined"


def test_counts_may_be_in_a_layer(predicted):
    genes = predicted.var_names[[4, 12]]
    expected = [values(ax)[1] for _, ax in gene_panels(sti.pl.alignment(predicted, genes=genes))]
    predicted.layers["counts"] = predicted.X.copy()
    predicted.X = sparse.csr_matrix(log1p_cp10k(predicted.X))
    with pytest.raises(ValueError, match="raw counts"):
        sti.pl.alignment(predicted, genes=genes)
    by_name = sti.pl.alignment(predicted, genes=genes, layer="counts")
    STAlign.setup_anndata(predicted, layer="counts")
    by_setup = sti.pl.alignment(predicted, genes=genes)
    for figure in (by_name, by_setup):
        np.testing.assert_array_equal([values(ax)[1] for _, ax in gene_panels(figure)], expected)


def test_queries_find_the_spots_with_the_nearest_gene_vectors(predicted, aligner):
    """Image vectors point between the spots two and three on, so they find 2, 3, 1, 4, 0, 5, ... on."""
    counts = predicted.X.toarray()
    counts[41] = 0
    predicted.X = sparse.csr_matrix(counts)
    queries = predicted.obs_names[[80, 40]]
    with assert_unchanged(predicted):
        figure = sti.pl.alignment(predicted, aligner=aligner, queries=queries, n_neighbors=6)
    # 41 has no counts, so no gene vector to be found by.
    expected = {80: [82, 83, 81, 84, 80, 85], 40: [42, 43, 44, 40, 45, 39]}
    for (on_slide, patches), (spot, found) in zip(retrieval(figure), expected.items(), strict=True):
        assert all(shows(ax, predicted, i, PITCH) for ax, i in zip(patches, [spot, *found], strict=True))
        assert not shows(patches[1], predicted, spot, PITCH)
        assert [frame(ax) for ax in patches] == [BLACK, *(OWN if i == spot else FOUND for i in found)]
        assert patches[0].get_xlabel() == f"own spot: rank {found.index(spot) + 1} / {predicted.n_obs - 1}"
        (dots,) = on_slide.collections
        np.testing.assert_allclose(dots.get_offsets(), predicted.obsm["spatial"])
        colors = np.array([to_hex(color) for color in dots.get_facecolor()])
        assert set(np.flatnonzero(colors == FOUND)) == set(found) - {spot}
        assert np.flatnonzero(colors == BLACK).tolist() == [spot]
    (names,) = [legend.get_texts() for legend in figure.subfigs[1].legends]
    assert [text.get_text() for text in names] == ["query", "nearest spots, in order", "the query's own spot"]


def test_own_spot_that_is_not_found_is_not_framed(predicted, aligner):
    figure = sti.pl.alignment(predicted, aligner=aligner, queries=predicted.obs_names[80], n_neighbors=4)
    ((_, patches),) = retrieval(figure)
    assert [frame(ax) for ax in patches] == [BLACK] + 4 * [FOUND]
    assert patches[0].get_xlabel() == f"own spot: rank 5 / {predicted.n_obs}"


def test_default_queries_are_spread_and_do_not_depend_on_the_order(predicted, aligner):
    def places(adata):
        rows = retrieval(sti.pl.alignment(adata, aligner=aligner))
        dots = [ax.collections[0] for ax, _ in rows]
        return np.array(
            [dot.get_offsets()[[to_hex(color) == BLACK for color in dot.get_facecolor()]][0] for dot in dots]
        )

    found = places(predicted)
    shuffled = predicted[np.random.default_rng(0).permutation(predicted.n_obs)].copy()
    np.testing.assert_array_equal(places(shuffled), found)
    extent = np.ptp(predicted.obsm["spatial"], axis=0)
    assert len(found) == 3
    assert (np.ptp(found, axis=0) > 0.35 * extent).all()
    apart = np.linalg.norm(found[:, None] - found, axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 0.35 * extent.min()
    few = predicted[[0, 60]].copy()
    assert len(places(few)) == 2


def test_one_of_several_slides(sections):
    """Slides are called as their libraries; those of other slides need not be there."""
    sections.obsm["spatial"] = np.abs(sections.obsm["spatial"]) + 50
    sections.uns["spatial"] = {"slide_1": library(1), "slide_3": library(3)}
    predict(sections)
    aligner = GivenVectors(sections, angles(np.arange(sections.n_obs)), angles(np.arange(sections.n_obs)))
    third = (sections.obs["slide"] == "slide_3").to_numpy()
    spot = sections.obs_names[third][30]
    gene = sections.var_names[9]
    with assert_unchanged(sections):
        figure = sti.pl.alignment(sections, genes=gene, library_id="slide_3", aligner=aligner, queries=[spot])
    (_, measured), _ = gene_panels(figure)
    np.testing.assert_allclose(values(measured)[0], sections.obsm["spatial"][third])
    np.testing.assert_allclose(values(measured)[1], log1p_cp10k(sections.X)[third, 9], rtol=1e-6)
    ((_, patches),) = retrieval(figure)
    one = sections[third].copy()
    one.uns["spatial"] = {"section": library(3)}
    assert shows(patches[0], one, 30, PITCH)
    assert shows(patches[1], one, 30, PITCH)
    assert len(patches) == 6
    with pytest.raises(KeyError, match="3 slides.*'slide_1'.*`library_id` is not given"):
        sti.pl.alignment(sections)
    with pytest.raises(KeyError, match="`library_id` is 'slide_9'"):
        sti.pl.alignment(sections, library_id="slide_9")
    with pytest.raises(KeyError, match="not spots of the slide"):
        sti.pl.alignment(sections, library_id="slide_1", aligner=aligner, queries=[spot])
    with pytest.raises(KeyError, match="slide_2"):
        sti.pl.alignment(sections, library_id="slide_2", aligner=aligner)


def after_prediction(adata, tmp_path, **options):
    """The figure of a trained aligner, and the spots that it should show, from its vectors."""
    sti.pp.build_niches(adata)
    options |= {"cache_dir": tmp_path}
    aligner = sti.tl.align(
        adata,
        genes=adata.var_names[:200],
        image_encoder=tiny_encoder(),
        max_epochs=1,
        image_dir=options.get("image_dir"),
        model_kwargs={"config": TINY, "cache_dir": tmp_path},
        **QUIET,
    )
    sti.tl.predict_expression(adata, aligner, **options)
    figure = sti.pl.alignment(adata, aligner=aligner, queries=adata.obs_names[[3, 90]], n_neighbors=3, **options)
    image, gene = (
        aligner.get_latent_representation(adata, modality=modality, level="spot", **options)
        for modality in ("image", "gene")
    )
    cosine = np.array([[image[query] @ gene[spot] for spot in range(adata.n_obs)] for query in (3, 90)])
    return figure, [[query, *np.argsort(-row)[:3]] for query, row in zip((3, 90), cosine, strict=True)]


def test_after_predict_expression(predicted, tmp_path):
    del predicted.layers["stimage_predicted"]
    figure, expected = after_prediction(predicted, tmp_path)
    for (_, patches), spots in zip(retrieval(figure), expected, strict=True):
        assert all(shows(ax, predicted, spot, PITCH) for ax, spot in zip(patches, spots, strict=True))


def test_real_slide(shared_data, tmp_path):
    folder = shared_data / "img-MOB_Rep11"
    adata = ad.read_h5ad(folder / "img-MOB_Rep11.h5ad")
    sti.pp.compact_grid(adata)
    figure, expected = after_prediction(adata, tmp_path, image_dir=folder)
    assert len(gene_panels(figure)) == 6
    for (on_slide, patches), (query, *found) in zip(retrieval(figure), expected, strict=True):
        colors = np.array([to_hex(color) for color in on_slide.collections[0].get_facecolor()])
        assert set(np.flatnonzero(colors == FOUND)) == set(found) - {query}
        assert len(patches) == 4


def test_saved(predicted, tmp_path):
    sti.pl.alignment(predicted, save=tmp_path / "alignment.png")
    assert imread(tmp_path / "alignment.png").shape[0] > 300


def test_errors(predicted, aligner):
    with pytest.raises(TypeError, match="AnnData"):
        sti.pl.alignment(predicted.obs)
    with pytest.raises(KeyError, match=r"'other'.*stimage.tl.predict_expression\(adata, aligner\)"):
        sti.pl.alignment(predicted, predicted_key="other")
    with pytest.raises(KeyError, match=rf"'no_such_gene'.*{predicted.var_names[0]}"):
        sti.pl.alignment(predicted, genes=[predicted.var_names[5], "no_such_gene"])
    with pytest.raises(ValueError, match="not predicted; choose among the 38 genes"):
        sti.pl.alignment(predicted, genes=predicted.var_names[1])
    with pytest.raises(ValueError, match="`genes` must name at least one"):
        sti.pl.alignment(predicted, genes=[])
    with pytest.raises(TypeError, match="`aligner` must be a stimage.models.STAlign, found str"):
        sti.pl.alignment(predicted, aligner="aligner")
    with pytest.raises(ValueError, match="n_neighbors"):
        sti.pl.alignment(predicted, aligner=aligner, n_neighbors=0)
    with pytest.raises(KeyError, match=rf"'no_such_spot'.*{predicted.obs_names[0]}"):
        sti.pl.alignment(predicted, aligner=aligner, queries=["no_such_spot"])
    with pytest.raises(ValueError, match="`queries` must name at least one"):
        sti.pl.alignment(predicted, aligner=aligner, queries=[])
    empty = predicted.copy()
    counts = empty.X.toarray()
    counts[5] = 0
    empty.X = sparse.csr_matrix(counts)
    with pytest.raises(ValueError, match=rf"`queries` '{empty.obs_names[5]}' have no counts"):
        sti.pl.alignment(empty, aligner=aligner, queries=empty.obs_names[5])
    empty.X = sparse.csr_matrix(empty.shape)
    with pytest.raises(ValueError, match="No spot has counts"):
        sti.pl.alignment(empty)
    empty.layers["stimage_predicted"][:] = np.nan
    empty.X = predicted.X
    with pytest.raises(ValueError, match="no gene predicted"):
        sti.pl.alignment(empty)
    del predicted.uns["spatial"]
    with pytest.raises(KeyError, match="no image"):
        sti.pl.alignment(predicted, aligner=aligner)
    sti.pl.alignment(predicted)
    del predicted.uns["grid"]
    with pytest.raises(KeyError, match="compact_grid"):
        sti.pl.alignment(predicted)


def test_aligner_without_images(predicted):
    sti.pp.build_niches(predicted)
    without = STAlign(predicted, genes=predicted.var_names, image_encoder=None, config=TINY)
    with pytest.raises(ValueError, match="`aligner` was built without images"):
        sti.pl.alignment(predicted, aligner=without)
