"""Every public call that takes an AnnData against every kind of bad AnnData: an error that says what to do, or no concern of it.

An error leaves the AnnData as it was, and whether there is one or not, ``X`` is not changed.
"""

import re

import matplotlib
import numpy as np
import pytest
from helpers import assert_unchanged, in_groups
from scipy import sparse
from stained import QUIET, TINY, tiny_encoder

from stimage import data, pl, pp, tl
from stimage.models import STImage

matplotlib.use("Agg")
SIZES = {"window": 6, "n_pool_genes": 40, "n_genes": 20, "max_epochs": 1, "windows_per_epoch": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def complete(simulated_stained, model, aligner):
    """A slide after all of the package: image, grid, niches, embedding, domains, a region and a prediction."""
    adata = simulated_stained.copy()
    tl.embed(adata, model)
    tl.domains(adata, 3, method="kmeans")
    tl.reconstruct_region(adata, model, size=2)
    tl.predict_expression(adata, aligner)
    adata.obs["known"] = adata.obs["domain"].where(adata.obs["array_row"] < 5)
    return adata


@pytest.fixture(scope="module")
def calls(model, aligner, tmp_path_factory):
    def build_corpus(adata):
        folder = tmp_path_factory.mktemp("corpus") / "corpus"
        try:
            pp.build_corpus(adata, folder, n_pool_genes=20)
        except (ValueError, TypeError, KeyError):
            assert not list(folder.rglob("*.safetensors"))
            raise

    options = {"image_encoder": tiny_encoder(), "n_pool_genes": 40, "config": TINY, "max_epochs": 1, **QUIET}
    return {
        "compact_grid": pp.compact_grid,
        "build_niches": pp.build_niches,
        "build_corpus": build_corpus,
        "aggregate_sites": pp.aggregate_sites,
        "select_genes": lambda adata: pp.select_genes(adata, n_genes=20),
        "pretrain": lambda adata: tl.pretrain(adata, **in_groups(tl.pretrain, **SIZES, **QUIET)),
        "embed": lambda adata: tl.embed(adata, model, mode="visible"),
        "embed aligned": lambda adata: tl.embed(adata, aligner),
        "reconstruct_region": lambda adata: tl.reconstruct_region(adata, model, size=2),
        "fill_holes": lambda adata: tl.fill_holes(adata, model),
        "domains": lambda adata: tl.domains(adata, 2, method="kmeans"),
        "annotate": lambda adata: tl.annotate(adata, "known", head="knn"),
        "align": lambda adata: tl.align(adata, **in_groups(tl.align, **options)),
        "predict_expression": lambda adata: tl.predict_expression(adata, aligner),
        "pl.domains": pl.domains,
        "pl.niches": pl.niches,
        "pl.region_error": lambda adata: pl.region_error(adata, model.genes[0]),
        "pl.alignment": lambda adata: pl.alignment(adata, aligner=aligner),
        "setup_anndata": STImage.setup_anndata,
        "Corpus": lambda adata: data.Corpus.from_anndata(adata, genes=model.genes),
        "SlideImage": data.SlideImage.from_anndata,
    }


# Who looks at what

COORDINATES = {"build_niches", "embed aligned", "fill_holes", "align", "predict_expression", "pl.domains", "pl.niches"}
COORDINATES |= {"pl.alignment", "SlideImage"}
IF_THERE = {"compact_grid", "aggregate_sites", "pl.region_error"}
"""These look at coordinates where there are some; the grid needs none of a slide with array coordinates."""
TRAINED = {"pretrain", "embed", "embed aligned", "reconstruct_region", "fill_holes", "align", "Corpus", "pl.alignment"}
COUNTS = TRAINED | {
    "build_niches",
    "build_corpus",
    "aggregate_sites",
    "select_genes",
    "setup_anndata",
    "pl.region_error",
}
EMBEDDINGS = {"domains", "annotate"}
GRID = TRAINED | {"predict_expression", "setup_anndata", "aggregate_sites", "pl.region_error"}
SITES = GRID - {"setup_anndata"} | {"build_niches", "build_corpus"}
OBSERVATION_NAMES = TRAINED | {"compact_grid", "build_niches", "build_corpus", "select_genes", "setup_anndata"}
OBSERVATION_NAMES |= {"predict_expression", "pl.region_error"}
GENE_NAMES = TRAINED | {"build_corpus", "select_genes", "setup_anndata", "pl.region_error"}
KNOWN_GENES = {"embed", "embed aligned", "reconstruct_region", "fill_holes", "predict_expression", "Corpus"}
SLOW = {
    "pretrain",
    "align",
    "build_corpus",
    "reconstruct_region",
    "pl.domains",
    "pl.niches",
    "pl.region_error",
    "pl.alignment",
}
"""Not tried where they have nothing against a slide."""

NAMES = ("grid_row", "grid_col", "array_row", "array_col")


# What is bad


def without_coordinates(adata):
    del adata.obsm["spatial"]


def coordinates(value):
    def change(adata):
        adata.obsm["spatial"][3, 0] = value

    return change


def of_four(adata):
    adata.obsm["spatial"] = np.ones((adata.n_obs, 4))


def of_text(adata):
    adata.obsm["spatial"] = np.full((adata.n_obs, 2), "x")


def one_count(value):
    def change(adata):
        counts = adata.X.toarray().astype(float)
        counts[4, 7] = value
        adata.X = sparse.csr_matrix(counts)

    return change


def log_transformed(adata):
    adata.X = adata.X.log1p()


def without_counts(adata):
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)


def without_x(adata):
    adata.X = None


def repeated_observation(adata):
    adata.obs_names = [*adata.obs_names[:-1], adata.obs_names[0]]


def repeated_gene(adata):
    adata.var_names = [*adata.var_names[:-1], adata.var_names[1]]


def repeated_site(adata):
    for name in NAMES:
        adata.obs.iloc[1, adata.obs.columns.get_loc(name)] = adata.obs[name].iloc[0]
    adata.obsm["spatial"][1] = adata.obsm["spatial"][0]


def genes_called(form):
    def change(adata):
        adata.var_names = [form.format(number) for number in range(adata.n_vars)]

    return change


def without_grid(adata):
    del adata.uns["grid"]


def cut_grid(adata):
    adata.uns["grid"]["slides"] = adata.uns["grid"]["slides"].iloc[:0]


def lost_parameters(adata):
    adata.uns["grid"]["params"] = {}


def without_a_site(adata):
    adata.obs["grid_row"] = adata.obs["grid_row"].astype(float).where(np.arange(adata.n_obs) != 5)


def sites_of_text(adata):
    adata.obs["grid_col"] = "first"


def notes_of_another(adata):
    adata.uns["stimage"] = {"setup": "mine"}


def embedding_with_nan(adata):
    adata.obsm["X_stimage"][3, 0] = np.nan


def without_embedding(adata):
    del adata.obsm["X_stimage"]


def library_of_another(adata):
    adata.uns["spatial"] = {"slide_1": 3}


def scale_of_text(adata):
    adata.uns["spatial"]["slide_1"]["scalefactors"] = {"tissue_hires_scalef": "x", "spot_diameter_fullres": "y"}


BAD = {
    "no coordinates": (without_coordinates, KeyError, r"No spatial coordinates.*`spatial_key`.*available", COORDINATES),
    "NaN coordinate": (
        coordinates(np.nan),
        ValueError,
        r"`spatial_key`.*NaN.*'slide_1_3'.*remove",
        COORDINATES | IF_THERE,
    ),
    "infinite coordinate": (
        coordinates(np.inf),
        ValueError,
        r"`spatial_key`.*infinite.*remove",
        COORDINATES | IF_THERE,
    ),
    "four coordinates": (of_four, ValueError, r"`spatial_key`.*two columns.*\(46, 4\)", COORDINATES | IF_THERE),
    "text for coordinates": (of_text, TypeError, r"`spatial_key`.*must hold numbers", COORDINATES | IF_THERE),
    "NaN count": (
        one_count(np.nan),
        ValueError,
        r"adata.X has NaN.*remove or repair|adata.X has NaN.*put back",
        COUNTS,
    ),
    "infinite count": (one_count(np.inf), ValueError, r"adata.X has NaN or infinite", COUNTS),
    "negative count": (one_count(-2), ValueError, r"negative values \(e.g. -2\), raw counts are needed", COUNTS),
    "log-transformed": (log_transformed, ValueError, r"looks log-transformed, raw counts are needed", COUNTS),
    "no X": (without_x, ValueError, r"adata.X is empty: .*available layers", COUNTS),
    "no counts": (
        without_counts,
        ValueError,
        r"no counts, all are zero.*[Rr]emove|No spot has counts",
        COUNTS - {"build_niches", "aggregate_sites", "setup_anndata", "pl.region_error"},
    ),
    "repeated observation": (
        repeated_observation,
        ValueError,
        r"`adata.obs_names` has 1 repeated.*'slide_1_0'.*obs_names_make_unique",
        OBSERVATION_NAMES,
    ),
    "repeated gene": (
        repeated_gene,
        ValueError,
        r"`adata.var_names` has 1 repeated.*'GENE00002'.*var_names_make_unique",
        GENE_NAMES,
    ),
    "repeated site": (
        repeated_site,
        ValueError,
        r"share a site.*(compact_grid|`slide_key=`)",
        SITES - {"aggregate_sites", "pl.region_error"} | {"compact_grid"},
    ),
    "other genes": (genes_called("other{}"), ValueError, r"'other0'.*GENE.*at least 4", KNOWN_GENES),
    "Ensembl ids": (genes_called("ENSG{:011}"), ValueError, r"'ENSG0+'.*GENE.*Ensembl ids", KNOWN_GENES),
    "no grid": (without_grid, KeyError, r"No compact grid.*compact_grid\(adata\)", GRID),
    "cut grid": (
        cut_grid,
        KeyError,
        r"No compact grid.*compact_grid\(adata\)",
        GRID | {"build_niches", "build_corpus"},
    ),
    "lost parameters": (
        lost_parameters,
        KeyError,
        r"No compact grid.*compact_grid\(adata\)",
        GRID | {"build_niches", "build_corpus"},
    ),
    "no site": (without_a_site, ValueError, r"grid_row.*(not in slide|no sites).*compact_grid` again", SITES),
    "text for sites": (sites_of_text, TypeError, r"grid_col.*must hold rows or columns", SITES | {"setup_anndata"}),
    "notes of another": (
        notes_of_another,
        ValueError,
        r"adata.uns\['stimage'\]\['setup'\] holds a str",
        GRID - {"aggregate_sites", "Corpus"},
    ),
    "NaN in the embedding": (embedding_with_nan, ValueError, r"`use_rep`.*NaN.*'slide_1_3'", EMBEDDINGS),
    "no embedding": (without_embedding, KeyError, r"`use_rep`.*available.*stimage.tl.embed", EMBEDDINGS),
    "library of another": (
        library_of_another,
        KeyError,
        r"No (tissue )?image|has no image",
        {"embed aligned", "align", "predict_expression", "pl.niches", "pl.alignment", "SlideImage"},
    ),
    "text for scales": (
        scale_of_text,
        ValueError,
        r"\['scalefactors'\]\['.*'\] must be a positive number, found '[xy]'",
        {"build_niches", "embed aligned", "align", "predict_expression", "SlideImage"}
        | {"pl.domains", "pl.niches", "pl.alignment"},
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
def test_bad_slides(complete, calls, case):
    change, error, message, concerned = BAD[case]
    assert concerned <= set(calls)
    for name, call in calls.items():
        if name in SLOW - concerned:
            continue
        adata = complete.copy()
        change(adata)
        if name in concerned:
            with assert_unchanged(adata), pytest.raises(error) as caught:
                call(adata)
            assert type(caught.value) is error, name
            assert re.search(message, str(caught.value.args[0]), re.DOTALL), f"{name}: {caught.value.args[0]}"
        else:
            before = adata.X if adata.X is None else adata.X.copy()
            call(adata)
            if before is not None:
                np.testing.assert_array_equal(adata.X.toarray(), before.toarray())


PARTS = {
    "no observation": (lambda a: a[:0], r"0 observations, at least [123] are needed"),
    "one observation": (lambda a: a[:1], r"1 observations, at least [23] are needed"),
    "no gene": (lambda a: a[:, :0], r"0 genes, at least [12] are needed"),
    "one gene": (lambda a: a[:, :1], r"1 genes, at least 2 are needed"),
}
FEW_OBSERVATIONS = OBSERVATION_NAMES - {"pl.region_error", "build_niches"} | {"domains"}
TOO_SMALL = {
    "no observation": FEW_OBSERVATIONS | {"build_niches", "aggregate_sites", "pl.domains", "pl.niches"},
    "one observation": FEW_OBSERVATIONS,
    "no gene": GENE_NAMES - {"pl.region_error"} | {"build_niches"},
    "one gene": GENE_NAMES - {"pl.region_error"},
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("view", [False, True])
def test_slides_that_are_too_small(complete, calls, case, view):
    cut, message = PARTS[case]
    for name in TOO_SMALL[case]:
        adata = cut(complete) if view else cut(complete).copy()
        with assert_unchanged(adata), pytest.raises(ValueError, match=message):
            calls[name](adata)
        assert adata.is_view is view


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("annotate", "`label_key`.*0 different labels"),
        ("pl.region_error", "no region was hidden"),
        ("predict_expression", "0 observations"),
    ],
)
def test_what_else_needs_observations(complete, calls, name, message):
    adata = complete[:0].copy()
    with assert_unchanged(adata), pytest.raises(ValueError, match=message):
        calls[name](adata)


@pytest.mark.parametrize("name", ["embed", "embed aligned", "reconstruct_region", "fill_holes"])
def test_where_calls_without_a_layer_find_the_counts(complete, calls, name):
    """What they advise works."""
    adata = complete.copy()
    adata.layers["counts"] = adata.X.copy()
    log_transformed(adata)
    with assert_unchanged(adata), pytest.raises(ValueError) as caught:
        calls[name](adata)
    text = str(caught.value)
    assert "STImage.setup_anndata(adata, layer=...)" in text
    assert "'counts'" in text
    STImage.setup_anndata(adata, layer="counts")
    calls[name](adata)


@pytest.mark.parametrize("name", ["pretrain", "align", "select_genes", "build_corpus", "setup_anndata", "Corpus"])
def test_where_calls_with_a_layer_find_the_counts(complete, calls, name):
    adata = complete.copy()
    log_transformed(adata)
    with pytest.raises(ValueError, match="pass the raw counts with `layer=`"):
        calls[name](adata)


@pytest.mark.parametrize("name", ["pretrain", "align", "select_genes"])
def test_slides_without_a_gene_in_common(complete, calls, name):
    other = complete.copy()
    genes_called("ENSG{:011}")(other)
    with assert_unchanged(complete, other), pytest.raises(ValueError) as caught:
        calls[name]([complete, other])
    assert re.search("No gene in common.*GENE.*'ENSG0+'.*Ensembl ids", str(caught.value))


def test_windows_that_are_larger_than_the_slide(complete):
    with assert_unchanged(complete), pytest.raises(ValueError, match="`window`=9 is larger than every slide.*7 x 8"):
        tl.pretrain(complete, **in_groups(tl.pretrain, **{**SIZES, "window": 9}, **QUIET))
