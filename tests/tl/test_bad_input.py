"""Bad input: an error that names the parameter, says what was found and what to do; the AnnData stays as it was."""

import json
import re

import anndata
import numpy as np
import pytest
from helpers import assert_unchanged
from scipy import sparse

from stimage import pp, tl
from stimage.data import Corpus
from stimage.models import STImage
from stimage.train import save_checkpoint

VERBS = ["pretrain", "embed", "reconstruct_region"]


@pytest.fixture
def call(model, pretrain):
    """Call a function of the package by its name, with what it needs besides."""

    def call(verb, adata, **options):
        if verb == "compact_grid":
            return pp.compact_grid(adata, **options)
        if verb == "pretrain":
            return pretrain(adata, **options)
        if verb == "embed":
            return tl.embed(adata, **{"model": model, **options})
        if verb == "reconstruct_region":
            default = {} if "region" in options or "size" in options else {"size": 2}
            return tl.reconstruct_region(adata, **{"model": model, **default, **options})
        return tl.domains(adata, **options)

    return call


def assert_raises(call, error, message, verb, adata, **options):
    """The error is of this type, and its message has each of the key words, in their order."""
    adatas = adata if isinstance(adata, list) else [adata]
    with assert_unchanged(*[adata for adata in adatas if isinstance(adata, anndata.AnnData)]):
        with pytest.raises(error) as caught:
            call(verb, adata, **options)
    assert type(caught.value) is error
    text = str(caught.value.args[0])
    assert re.search(".*".join(message), text, re.DOTALL), f"{message} is not in {text!r}"


def with_counts(adata, change):
    counts = adata.X.toarray()
    change(counts)
    adata.X = sparse.csr_matrix(counts)
    return adata


def set_value(value):
    def change(counts):
        counts[4, 7] = value

    return change


# Counts, names and sizes: whatever reads counts refuses them


def repeat_observation(adata):
    adata.obs_names = [*adata.obs_names[:-1], adata.obs_names[0]]
    return adata


def repeat_gene(adata):
    adata.var_names = [*adata.var_names[:-1], adata.var_names[0]]
    return adata


def log_transformed(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    return adata


def without_grid(adata):
    del adata.uns["grid"]
    return adata


def with_column(name, values):
    def change(adata):
        adata.obs[name] = values(adata)
        return adata

    return change


def duplicated_sites(adata):
    """Observations at the sites of others."""
    for column in ("grid_row", "grid_col"):
        adata.obs[column] = np.append(adata.obs[column].to_numpy()[:-3], adata.obs[column].to_numpy()[:3])
    return adata


def grid_of_one_part(adata):
    """Two slides put together as if they were one."""
    other = adata.copy()
    other.obs_names = [f"{name}-1" for name in other.obs_names]
    return anndata.concat([adata, other], uns_merge="first", merge="first")


def with_uns(name, value):
    def change(adata):
        adata.uns[name] = value
        return adata

    return change


BAD_SLIDES = {
    "NaN": (
        lambda a: with_counts(a, set_value(np.nan)),
        ValueError,
        ["adata.X has NaN", "remove or repair", "layer="],
    ),
    "infinite": (lambda a: with_counts(a, set_value(np.inf)), ValueError, ["adata.X has NaN or infinite", "layer="]),
    "negative": (
        lambda a: with_counts(a, set_value(-2)),
        ValueError,
        ["negative values", "-2", "raw counts", "layer="],
    ),
    "log": (log_transformed, ValueError, ["looks log-transformed", "raw counts are needed", "layer=", "'counts'"]),
    "observations": (repeat_observation, ValueError, ["`adata.obs_names` has 1 repeated", "obs_names_make_unique"]),
    "genes": (repeat_gene, ValueError, ["`adata.var_names` has 1 repeated", "var_names_make_unique"]),
    "one spot": (lambda a: a[:1].copy(), ValueError, ["1 observations, at least 2", "filtering"]),
    "one gene": (lambda a: a[:, a.var_names[:1]].copy(), ValueError, ["1 genes, at least 2", "filtering"]),
    "no spots": (lambda a: a[:0].copy(), ValueError, ["0 observations, at least 2", "filtering"]),
    "no genes": (lambda a: a[:, []].copy(), ValueError, ["0 genes, at least 2", "filtering"]),
    "view of no spots": (lambda a: a[[]], ValueError, ["0 observations, at least 2"]),
    "no grid": (without_grid, KeyError, ["No compact grid", "'grid_row'", r"compact_grid\(adata\)"]),
    "other grid": (with_uns("grid", 3), KeyError, ["No compact grid", r"compact_grid\(adata\)"]),
    "NaN in the grid": (
        with_column("grid_row", lambda a: np.where(np.arange(a.n_obs) == 5, np.nan, a.obs["grid_row"])),
        ValueError,
        ["grid_row", "1 observations", "slide_1_5", "10 x 10 sites", "compact_grid` again"],
    ),
    "sites outside": (
        with_column("grid_col", lambda a: a.obs["grid_col"] + 1),
        ValueError,
        ["'grid_col'", "observations", "not in slide 'slide'", "compact_grid` again"],
    ),
    "duplicated sites": (duplicated_sites, ValueError, ["3 observations", "share a site", "`slide_key="]),
    "grid of one part": (
        grid_of_one_part,
        ValueError,
        ["grid of 81 observations", "has 162", r"compact_grid\(adata, slide_key="],
    ),
    "uns of another": (with_uns("stimage", "mine"), ValueError, [r"adata.uns\['stimage'\] holds a str", "another key"]),
    "dtype": (
        lambda a: anndata.AnnData(a.X.toarray().astype(complex), obs=a.obs, var=a.var, uns=a.uns, obsm=a.obsm),
        TypeError,
        ["adata.X must hold numbers", "complex"],
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", BAD_SLIDES)
def test_bad_slides(slide, call, verb, case):
    change, error, message = BAD_SLIDES[case]
    assert_raises(call, error, message, verb, change(slide))


@pytest.mark.parametrize("verb", VERBS)
def test_slides_without_counts(slide, call, verb):
    slide.X = sparse.csr_matrix(slide.shape, dtype=np.float32)
    remove = ["'slide'", "no counts, all are zero", "[Rr]emove"]
    assert_raises(call, ValueError, remove, verb, slide)
    if verb == "pretrain":
        assert_raises(call, ValueError, remove, verb, slide, genes=slide.var_names[:20])


@pytest.mark.parametrize("verb", VERBS)
def test_one_of_two_slides_without_counts(pair, call, verb):
    second = (pair.obs["slide"] == "slide_2").to_numpy()
    with_counts(pair, lambda counts: counts.__setitem__(second, 0))
    assert_raises(call, ValueError, ["'slide_2'", "no counts", "remove it"], verb, pair)


@pytest.mark.parametrize("verb", VERBS)
def test_one_of_two_slides_with_one_spot(pair, call, verb):
    second = np.flatnonzero(pair.obs["slide"] == "slide_2")
    rest = pair[np.setdiff1d(np.arange(pair.n_obs), second[1:])].copy()
    assert_raises(call, ValueError, ["at least 2 are needed", "remove"], verb, rest)


@pytest.mark.parametrize("verb", VERBS)
def test_slides_the_grid_does_not_know(pair, call, verb):
    pair.obs["slide"] = pair.obs["slide"].cat.rename_categories({"slide_2": "other"})
    assert_raises(call, ValueError, ["knows no slide 'other'", "`slide_key`", "compact_grid"], verb, pair)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("value", [None, 3, "slide.h5ad", np.ones((3, 3)), {"adata": 1}])
def test_not_an_anndata(call, verb, value):
    parameter = "adatas" if verb == "pretrain" else "adata"
    assert_raises(call, TypeError, [f"`{parameter}` must be an AnnData", f"found {type(value).__name__}"], verb, value)


@pytest.mark.parametrize("verb", ["compact_grid", "domains"])
def test_not_an_anndata_elsewhere(call, slide, verb):
    for value in (None, slide.X, [slide]):
        assert_raises(call, TypeError, ["`adata` must be an AnnData", f"found {type(value).__name__}"], verb, value)


# Grids


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            lambda a: a.obsm.pop("spatial"),
            {},
            KeyError,
            ["No spatial coordinates", "`spatial_key`='spatial'", "available"],
        ),
        (lambda a: None, {"spatial_key": "pixels"}, KeyError, ["`spatial_key`='pixels'", "available", "'spatial'"]),
        (
            lambda a: a.obsm["spatial"].__setitem__((3, 0), np.nan),
            {},
            ValueError,
            ["`spatial_key`", "NaN", "1 obs", "remove"],
        ),
        (
            lambda a: a.obsm["spatial"].__setitem__((3, 1), np.inf),
            {},
            ValueError,
            ["`spatial_key`", "infinite", "remove"],
        ),
        (
            lambda a: a.obsm["spatial"].__setitem__(3, a.obsm["spatial"][4]),
            {"layout": "hex"},
            ValueError,
            ["slide", "position|site", "`layout`='bins'"],
        ),
        (repeat_observation, {}, ValueError, ["`adata.obs_names` has 1 repeated", "obs_names_make_unique"]),
        (lambda a: None, {"layout": "triangle"}, ValueError, ["`layout` must be one of", "'hex'", "found 'triangle'"]),
        (lambda a: None, {"layout": None}, ValueError, ["`layout` must be one of", "found None"]),
        (lambda a: None, {"layout": "bins", "bin_size": 0}, ValueError, ["`bin_size` must be positive", "found 0"]),
        (lambda a: None, {"layout": "bins", "bin_size": np.nan}, ValueError, ["`bin_size` must be positive", "nan"]),
        (lambda a: None, {"layout": "bins", "bin_size": "wide"}, TypeError, ["`bin_size` must be a number", "str"]),
        (lambda a: None, {"bin_size": 5.0}, ValueError, ["`bin_size`=5.0", "`layout`='bins' only"]),
        (lambda a: None, {"slide_key": "donor"}, KeyError, ["`slide_key`='donor'", "available", "'domain'"]),
        (lambda a: None, {"slide_key": ["slide"]}, TypeError, ["`slide_key` must be a string", "list"]),
        (lambda a: None, {"spatial_key": 3}, TypeError, ["`spatial_key` must be a string", "int"]),
        (lambda a: None, {"spatial_key": ["spatial"]}, TypeError, ["`spatial_key` must be a string", "list"]),
        (lambda a: None, {"key_added": ""}, ValueError, ["`key_added`", "non-empty"]),
        (lambda a: None, {"key_added": 3}, ValueError, ["`key_added`", "string", "found 3"]),
    ],
)
def test_bad_grids(slide, call, change, options, error, message):
    for key in ("array_row", "array_col", "grid_row", "grid_col"):
        del slide.obs[key]
    del slide.uns["grid"], slide.obsm["X_grid"]
    change(slide)
    assert_raises(call, error, message, "compact_grid", slide, **options)


@pytest.mark.parametrize("layout", ["auto", "hex", "square", "rank", "bins"])
@pytest.mark.parametrize("n_obs", [0, 1])
def test_grids_of_too_few(slide, call, layout, n_obs):
    message = [f"{n_obs} observations, at least 2", "filtering"]
    assert_raises(call, ValueError, message, "compact_grid", slide[:n_obs].copy(), layout=layout)


@pytest.mark.parametrize("layout", ["auto", "hex", "square", "rank"])
def test_duplicated_array_sites(slide, call, layout):
    slide.obs[["array_row", "array_col"]] = (
        slide.obs[["array_row", "array_col"]].iloc[[0, 0, *range(2, slide.n_obs)]].values
    )
    slide.obsm["spatial"][1] = slide.obsm["spatial"][0]
    message = ["2 observations share a site", "remove duplicates", "`slide_key="]
    assert_raises(call, ValueError, message, "compact_grid", slide, layout=layout)


# Options


PRETRAIN_OPTIONS = [
    ({"window": 11}, ValueError, ["`window`=11 is larger than every slide", "10 x 10 sites", "`window=10`"]),
    ({"window": 0}, ValueError, ["`window` must be at least 2", "found 0"]),
    ({"window": 6.0}, TypeError, ["`window` must be an integer", "float"]),
    ({"window": None}, TypeError, ["`window` must be an integer", "NoneType"]),
    ({"n_genes": 0}, ValueError, ["`n_genes` must be at least 1"]),
    ({"n_genes": "all"}, TypeError, ["`n_genes` must be an integer", "str"]),
    ({"n_pool_genes": 0}, ValueError, ["`n_pool_genes` must be at least 1"]),
    ({"n_pool_genes": True}, TypeError, ["`n_pool_genes` must be an integer", "bool"]),
    ({"mask_ratio": 0}, ValueError, ["`mask_ratio` must be between 0 and 1", "found 0"]),
    ({"mask_ratio": 1}, ValueError, ["`mask_ratio` must be between 0 and 1", "found 1"]),
    ({"mask_ratio": np.nan}, ValueError, ["`mask_ratio` must be between 0 and 1", "found nan"]),
    ({"mask_ratio": "half"}, TypeError, ["`mask_ratio` must be a number", "str"]),
    ({"masking": "spots"}, ValueError, ["`masking` must be one of", "'region'", "found 'spots'"]),
    ({"gene_selection": "pca"}, ValueError, ["`gene_selection` must be one of", "'hvg'", "found 'pca'"]),
    ({"gene_selection": None}, ValueError, ["`gene_selection` must be one of", "found None"]),
    ({"preset": "huge"}, ValueError, ["`preset` must be one of", "'paper'", "found 'huge'"]),
    ({"preset": None}, ValueError, ["`preset` must be one of", "found None"]),
    ({"max_epochs": 0}, ValueError, ["`max_epochs` must be at least 1"]),
    ({"max_epochs": 1.5}, TypeError, ["`max_epochs` must be an integer", "float"]),
    ({"batch_size": 0}, ValueError, ["`batch_size` must be at least 1"]),
    ({"batch_size": "big"}, TypeError, ["`batch_size` must be an integer", "str"]),
    ({"windows_per_epoch": 0}, ValueError, ["`windows_per_epoch` must be at least 1"]),
    ({"learning_rate": -1}, ValueError, ["`learning_rate` must be between", "found -1"]),
    ({"learning_rate": np.nan}, ValueError, ["`learning_rate` must be between", "found nan"]),
    ({"learning_rate": "fast"}, TypeError, ["`learning_rate` must be a number", "str"]),
    ({"validation_size": 1}, ValueError, ["`validation_size` must be between 0 and 1"]),
    ({"validation_size": "some"}, TypeError, ["`validation_size` must be a number", "str"]),
    ({"validation_size": 0.4}, ValueError, ["too small to hold out a block"]),
    ({"early_stopping": True, "validation_size": 0}, ValueError, ["`early_stopping=True` needs `validation_size`"]),
    ({"num_workers": -1}, ValueError, ["`num_workers` must be at least 0"]),
    ({"seed": -1}, ValueError, ["`seed` must be at least 0"]),
    ({"seed": 2**32}, ValueError, ["`seed` must be below"]),
    ({"seed": 1.0}, TypeError, ["`seed` must be an integer", "float"]),
    ({"layer": "raw"}, KeyError, ["`layer`='raw' is not in adata.layers", "available"]),
    ({"layer": ["raw"]}, TypeError, ["`layer` must be a string", "list"]),
    ({"slide_key": "donor"}, KeyError, ["`slide_key`='donor'", "available", "'slide'"]),
    ({"slide_key": 3}, TypeError, ["`slide_key` must be a string", "int"]),
    ({"slide_key": "domain"}, ValueError, ["knows no slide 'domain_1'", "`slide_key`", "compact_grid"]),
    ({"grid_key": "raster"}, KeyError, ["No compact grid", r"adata.uns\['raster'\]", "found uns keys 'grid'"]),
    ({"grid_key": None}, TypeError, ["`grid_key` must be a string", "NoneType"]),
    ({"genes": "GENE00001"}, TypeError, ["`genes` must be a sequence of gene names", "str"]),
    ({"genes": 5}, TypeError, ["`genes` must be a sequence of gene names", "int"]),
    ({"genes": [1, 2]}, TypeError, ["`genes` must hold gene names", "'int'"]),
    ({"genes": []}, ValueError, ["`genes` has 0 genes", "at least 2"]),
    ({"genes": ["GENE00001", "GENE00001"]}, ValueError, ["`genes` has repeated names", "once"]),
    ({"accelerator": "abacus"}, ValueError, ["abacus"]),
    ({"devices": 0}, Exception, ["devices"]),
    ({"unknown_option": 1}, TypeError, ["unknown_option"]),
]


@pytest.mark.parametrize(("options", "error", "message"), PRETRAIN_OPTIONS, ids=lambda value: str(value)[:30])
def test_pretrain_options(slide, call, options, error, message):
    slide.uns["stimage"] = {"earlier": {"seed": 1}}
    if error is Exception:  # Lightning's own
        with assert_unchanged(slide), pytest.raises(error, match=message[0]):
            call("pretrain", slide, **options)
    else:
        assert_raises(call, error, message, "pretrain", slide, **options)


def test_pretrain_on_lists(slide, parts, call):
    assert_raises(call, TypeError, ["`adatas`", "empty list"], "pretrain", [])
    assert_raises(call, TypeError, ["`adatas` must be an AnnData", "found str"], "pretrain", [slide, "slide.h5ad"])
    log_transformed(parts[1])
    assert_raises(call, ValueError, ["looks log-transformed", "`layer="], "pretrain", parts)  # the first stays, too


def test_slides_without_a_gene_in_common(parts, call):
    parts[1].var_names = [f"ENSG{number:011}" for number in range(parts[1].n_vars)]
    message = ["No gene in common", "'GENE|'gene", "'ENSG00000000000'", "Ensembl ids and the other gene symbols"]
    assert_raises(call, ValueError, message, "pretrain", parts)


@pytest.mark.parametrize("verb", ["embed", "reconstruct_region"])
def test_no_gene_in_common_with_the_model(slide, model, call, verb):
    slide.var_names = [f"other{number}" for number in range(slide.n_vars)]
    message = ["0 genes of adata.var_names", "'other0'", "40 of the vocabulary", model.genes[0], "at least 4"]
    assert_raises(call, ValueError, message, verb, slide)
    slide.var_names = [f"ENSG{number:011}" for number in range(slide.n_vars)]
    message = ["'ENSG00000000000'", model.genes[0], "Ensembl ids and the other gene symbols", "`var_names`"]
    assert_raises(call, ValueError, message, verb, slide)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 1}, TypeError, ["`model` must be None, 'closed', 'human' or a model", "int", "pretrain"]),
        ({"model": "checkpoint"}, ValueError, ["`model` must be one of 'closed', 'human'", "found 'checkpoint'"]),
        ({"mode": "hidden"}, ValueError, ["`mode` must be one of", "'context'", "found 'hidden'"]),
        ({"tile_size": 0}, ValueError, ["`tile_size` must be at least 2", "found 0"]),
        ({"tile_size": "all"}, TypeError, ["`tile_size` must be an integer", "str"]),
        ({"n_genes": 0}, ValueError, ["`n_genes` must be at least 1"]),
        ({"n_genes": 10.5}, TypeError, ["`n_genes` must be an integer", "float"]),
        ({"batch_size": 0}, ValueError, ["`batch_size` must be at least 1"]),
        ({"batch_size": None}, TypeError, ["`batch_size` must be an integer", "NoneType"]),
        ({"adapt_epochs": -1}, ValueError, ["`adapt_epochs` must be at least 0", "found -1"]),
        ({"adapt_epochs": 1.5}, TypeError, ["`adapt_epochs` must be an integer", "float"]),
        ({"adapt_epochs": 1, "n_genes": 0}, ValueError, ["`n_genes` must be at least 1", "found 0"]),
        ({"seed": -1}, ValueError, ["`seed` must be at least 0"]),
        ({"seed": "one"}, TypeError, ["`seed` must be an integer", "str"]),
        ({"key_added": None}, TypeError, ["`key_added` must be a string", "NoneType"]),
        ({"key_added": ""}, ValueError, ["`key_added` must be a non-empty string"]),
        ({"key_added": "X/y"}, ValueError, ["`key_added`", "without '/'", "found 'X/y'"]),
        ({"key_added": "X\\y"}, ValueError, ["`key_added`", "or a backslash"]),
        ({"key_added": ".."}, ValueError, ["`key_added`", "files need such keys"]),
        ({"key_added": "setup"}, ValueError, ["`key_added`", "taken", "another"]),
    ],
)
def test_embed_options(slide, call, options, error, message):
    assert_raises(call, error, message, "embed", slide, **options)


def a_mask(share):
    return lambda adata: np.arange(adata.n_obs) < share * adata.n_obs


REGION_OPTIONS = [
    ({"model": 1}, TypeError, ["`model` must be a stimage.models.STImage", "int", "pretrain"]),
    ({"size": None}, ValueError, ["either `region` or `size`"]),
    ({"size": 2, "region": a_mask(0.2)}, ValueError, ["either `region` or `size`"]),
    ({"size": 0}, ValueError, ["`size` must be at least 1", "found 0"]),
    ({"size": 2.5}, TypeError, ["`size` must be an integer", "float"]),
    ({"size": "large"}, TypeError, ["`size` must be an integer", "str"]),
    ({"size": 10}, ValueError, ["`size`=10 leaves no site visible", "10 x 10", "smaller"]),
    ({"size": 500}, ValueError, ["`size`=500 leaves no site visible", "10 x 10", "smaller"]),
    ({"region": a_mask(0)}, ValueError, ["`region` has 0 of 81 observations", "some visible"]),
    ({"region": a_mask(1)}, ValueError, ["`region` has 81 of 81 observations", "some visible"]),
    ({"region": []}, ValueError, ["`region` has 0 of 81 observations"]),
    ({"region": lambda a: a.obs_names}, ValueError, ["`region` has 81 of 81 observations"]),
    ({"region": np.ones(5, dtype=bool)}, ValueError, ["`region` has shape", "5", "one value per observation: 81"]),
    (
        {"region": np.ones((81, 1), dtype=bool)},
        ValueError,
        ["`region` has shape", "81, 1", "one value per observation"],
    ),
    ({"region": ["slide_1_0", "spot"]}, KeyError, ["`region` names 1 observations", "'spot'", "'slide_1_0'"]),
    ({"region": [0, 1]}, TypeError, ["`region` holds numbers", "boolean mask"]),
    ({"region": lambda a: a_mask(0.2)(a).astype(float)}, TypeError, ["`region` holds numbers", "float64", "boolean"]),
    ({"region": 5}, TypeError, ["`region` must be a boolean mask", "found int"]),
    ({"region": {"slide_1_0"}}, TypeError, ["`region` must be a boolean mask", "found set"]),
    ({"region": "hole"}, KeyError, ["`region`='hole' is not in adata.obs", "available", "'domain'"]),
    ({"region": "domain"}, ValueError, ["`region`", "must be boolean", "category"]),
    ({"region": "grid_row"}, ValueError, ["`region`", "must be boolean", "int32"]),
    ({"size": 2, "context": 0}, ValueError, ["`context` must be at least 1"]),
    ({"size": 2, "context": "wide"}, TypeError, ["`context` must be an integer", "str"]),
    ({"size": 2, "seed": -1}, ValueError, ["`seed` must be at least 0"]),
    ({"size": 2, "key_added": 3}, TypeError, ["`key_added` must be a string", "int"]),
    ({"size": 2, "key_added": "a/b"}, ValueError, ["`key_added`", "without '/'"]),
]


@pytest.mark.parametrize(("options", "error", "message"), REGION_OPTIONS, ids=lambda value: str(value)[:30])
def test_reconstruct_region_options(slide, call, options, error, message):
    options = {name: value(slide) if callable(value) else value for name, value in options.items()}
    assert_raises(call, error, message, "reconstruct_region", slide, **options)


def test_regions_that_hide_all_there_is_to_see(slide, pair, call):
    one = (pair.obs["slide"] == "slide_1").to_numpy()
    message = ["`region` hides every site with counts of slide 'slide_1'", "visible"]
    assert_raises(call, ValueError, message, "reconstruct_region", pair, region=one)
    pair.obs["partly"] = np.ma.masked_all(pair.n_obs, dtype=bool).tolist()
    assert_raises(call, ValueError, ["`region`", "must be boolean"], "reconstruct_region", pair, region="partly")
    rest = np.arange(slide.n_obs) >= 40
    with_counts(slide, lambda counts: counts.__setitem__(rest, 0))
    message = ["`region` hides every site with counts of slide 'slide'"]
    assert_raises(call, ValueError, message, "reconstruct_region", slide, region=~rest)


@pytest.fixture
def embedded():
    adata = anndata.AnnData(np.ones((30, 2)))
    adata.obsm["X_stimage"] = np.random.default_rng(0).normal(size=(30, 4))
    return adata


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_rep": "X_pca"}, KeyError, ["`use_rep`='X_pca'", "available", "'X_stimage'", "embed"]),
        ({"use_rep": None}, TypeError, ["`use_rep` must be a string", "NoneType"]),
        ({"use_rep": ["X_stimage"]}, TypeError, ["`use_rep` must be a string", "list"]),
        ({"use_rep": "X_nan"}, ValueError, ["`use_rep`", "NaN or infinite values for 1 observations", "'3'", "remove"]),
        ({"use_rep": "X_text"}, TypeError, ["`use_rep`", "must hold numbers"]),
        ({"use_rep": "X_empty"}, ValueError, ["`use_rep`", "at least one column", r"\(30, 0\)"]),
        ({"use_rep": "X_cube"}, ValueError, ["`use_rep`", "one row per observation", r"\(30, 2, 2\)"]),
        ({"method": "louvain"}, ValueError, ["`method` must be one of", "'leiden'", "found 'louvain'"]),
        ({"method": None}, ValueError, ["`method` must be one of", "found None"]),
        ({"n_domains": 1}, ValueError, ["`n_domains` must be at least 2", "found 1"]),
        ({"n_domains": 3.0}, TypeError, ["`n_domains` must be an integer", "float"]),
        ({"n_domains": "five"}, TypeError, ["`n_domains` must be an integer", "str"]),
        ({"n_domains": 30}, ValueError, ["`n_domains`=30 must be below the number of observations, 30", "fewer"]),
        ({"n_components": 0}, ValueError, ["`n_components` must be at least 1"]),
        ({"n_components": 0.9}, TypeError, ["`n_components` must be an integer", "float"]),
        ({"seed": -1}, ValueError, ["`seed` must be at least 0"]),
        ({"seed": "one"}, TypeError, ["`seed` must be an integer", "str"]),
        ({"key_added": None}, TypeError, ["`key_added` must be a string"]),
        ({"key_added": "a/b"}, ValueError, ["`key_added`", "without '/'"]),
    ],
)
def test_domains_options(embedded, call, options, error, message):
    embedded.obsm["X_nan"] = np.where(np.arange(30)[:, None] == 3, np.nan, embedded.obsm["X_stimage"])
    embedded.obsm["X_text"] = np.full((30, 2), "a")
    embedded.obsm["X_empty"] = np.empty((30, 0))
    embedded.obsm["X_cube"] = np.zeros((30, 2, 2))
    assert_raises(call, error, message, "domains", embedded, **options)


@pytest.mark.parametrize("method", ["gmm", "kmeans", "leiden"])
@pytest.mark.parametrize("n_obs", [0, 1])
def test_domains_of_too_few(embedded, call, method, n_obs):
    adata = embedded[:n_obs].copy()
    for n_domains in (None, 2):
        message = [f"{n_obs} observations, at least {3 if method == 'leiden' else 2}"]
        assert_raises(call, ValueError, message, "domains", adata, method=method, n_domains=n_domains)


def test_too_few_to_estimate_the_number(embedded, call):
    tl.domains(embedded[:3].copy(), method="leiden")
    message = ["`n_domains` cannot be estimated from 11 observations", "at least 12", "pass it"]
    for method in ("gmm", "kmeans"):
        assert_raises(call, ValueError, message, "domains", embedded[:11].copy(), method=method)
    tl.domains(embedded[:12].copy(), method="kmeans")


# Checkpoints


@pytest.fixture
def checkpoint(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(**changes):
    def change(folder):
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**document, **changes}))

    return change


def cut(name, share):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (rewrite(kind="STAlign"), ValueError, ["kind 'STAlign'", "not 'STImage'"]),
        (rewrite(format_version=99), ValueError, ["version 99", "reads 1", "update stimage"]),
        (rewrite(format_version=None), ValueError, ["version None", "reads 1"]),
        (rewrite(genes=["a", "b"]), ValueError, ["damaged"]),
        (cut("model.safetensors", 0.5), ValueError, ["truncated or altered", "checksum of model.safetensors"]),
        (cut("model.safetensors", 0), ValueError, ["truncated or altered"]),
        (cut("config.json", 0.5), ValueError, ["config.json"]),
        (cut("config.json", 0), ValueError, ["config.json"]),
        (flip, ValueError, ["truncated or altered", "checksum of model.safetensors"]),
        (lambda folder: (folder / "model.safetensors").unlink(), FileNotFoundError, ["no model.safetensors"]),
        (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, ["no config.json"]),
    ],
)
def test_bad_checkpoints(slide, checkpoint, change, error, message):
    change(checkpoint)
    with assert_unchanged(slide), pytest.raises(error, match=".*".join(message)) as caught:
        STImage.load(checkpoint, slide)
    assert str(checkpoint) in str(caught.value)


def test_checkpoints_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        STImage.load(tmp_path / "nowhere")
    for value in (None, 3):
        with pytest.raises(TypeError, match=f"`directory` must be a path, found {type(value).__name__}"):
            STImage.load(value)
    save_checkpoint(tmp_path / "empty", kind="STImage", weights={}, config={})
    with pytest.raises(ValueError, match="damaged"):
        STImage.load(tmp_path / "empty")


def test_saving_where_it_cannot_be(model, tmp_path):
    with pytest.raises(TypeError, match="`directory` must be a path, found NoneType"):
        model.save(None)
    (tmp_path / "file").write_text("taken")
    with pytest.raises((FileExistsError, NotADirectoryError), match="file"):
        model.save(tmp_path / "file")


def test_a_corpus_over_other_genes(slide, model):
    with pytest.raises(ValueError, match="corpus over other genes.*`genes=model.genes`"):
        model.get_latent_representation(Corpus.from_anndata(slide, genes=model.genes[:20]))
