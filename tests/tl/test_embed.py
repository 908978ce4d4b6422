import json
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from helpers import assert_unchanged
from PIL import Image
from scipy import sparse
from stained import TINY, aligner_of

from stimage import pp, tl

MODES = ["visible", "context"]


def embedding(adata, model, **options):
    return tl.embed(adata, model, copy=True, **options).obsm["X_stimage"]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written(slide, model, mode):
    before = slide.copy()
    assert tl.embed(slide, model, mode=mode) is None
    dim = model.autoencoder.dim
    vectors = slide.obsm["X_stimage"]
    assert vectors.shape == (slide.n_obs, 60 if mode == "context" else dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors, model.get_latent_representation(slide, mode=mode))
    entry = slide.uns["stimage"]["X_stimage"]
    assert (entry["mode"], entry["seed"], entry["tile_size"], entry["n_genes_drawn"]) == (mode, 0, 12, 0)
    assert (entry["n_genes_vocabulary"], entry["n_genes_shared"]) == (40, 40)
    assert entry["vocabulary_sha256"] == model.manifest["vocabulary_sha256"]
    del slide.obsm["X_stimage"], slide.uns["stimage"]
    with assert_unchanged(before):
        pass
    pd.testing.assert_frame_equal(slide.obs, before.obs)
    assert list(slide.uns) == list(before.uns)
    assert (slide.X != before.X).nnz == 0


def test_copy(slide, model):
    with assert_unchanged(slide):
        copy = tl.embed(slide, model, key_added="X_other", copy=True)
    assert set(copy.obsm) - set(slide.obsm) == {"X_other"}
    assert list(copy.uns["stimage"]) == ["X_other"]
    tl.embed(copy, model, key_added="X_again", mode="visible")
    assert sorted(copy.uns["stimage"]) == ["X_again", "X_other"]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_written_to_a_file(slide, model, tmp_path, form):
    tl.embed(slide, model, n_genes=10)
    tl.reconstruct_region(slide, model, size=3)
    tl.domains(slide, method="kmeans")
    path = tmp_path / f"slide.{form}"
    getattr(slide, f"write_{form}")(path)
    read = getattr(anndata, f"read_{form}")(path)
    np.testing.assert_array_equal(read.obsm["X_stimage"], slide.obsm["X_stimage"])
    np.testing.assert_array_equal(read.layers["stimage_region"].toarray(), slide.layers["stimage_region"].toarray())
    pd.testing.assert_frame_equal(read.obs[slide.obs.columns], slide.obs)
    assert read.uns["stimage"]["X_stimage"] == slide.uns["stimage"]["X_stimage"]
    assert read.uns["stimage_region"]["params"] == slide.uns["stimage_region"]["params"]
    assert read.uns["stimage_domain"]["params"] == slide.uns["stimage_domain"]["params"]
    for key, table in (("stimage_region", "errors"), ("stimage_domain", "criterion")):
        pd.testing.assert_frame_equal(read.uns[key][table], slide.uns[key][table], check_index_type=False)
    np.testing.assert_array_equal(embedding(read, model), embedding(slide, model))
    tl.domains(read, method="kmeans", key_added="again")
    assert (read.obs["again"] == slide.obs["stimage_domain"]).all()


@pytest.mark.parametrize("mode", MODES)
def test_cells_in_bins_have_the_embedding_of_the_pooled_bin(cells, model, mode):
    bins = cells.obs.groupby(["grid_row", "grid_col"]).indices
    assert len(bins) < cells.n_obs / 2
    pooled = anndata.AnnData(np.array([cells.X[members].toarray().sum(axis=0) for members in bins.values()]))
    pooled.var_names = cells.var_names
    pooled.obs["array_row"], pooled.obs["array_col"] = np.array(list(bins)).T
    pp.compact_grid(pooled, layout="square")
    expected = embedding(pooled, model, mode=mode)
    found = embedding(cells, model, mode=mode)
    assert len(found) == cells.n_obs
    for row, members in zip(expected, bins.values(), strict=True):
        np.testing.assert_allclose(found[members], np.tile(row, (len(members), 1)), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_interleaved_slides_are_embedded_apart(pair, parts, model, mode):
    found = embedding(pair, model, mode=mode)
    for name, part in zip(pair.obs["slide"].cat.categories, parts, strict=True):
        np.testing.assert_allclose(found[pair.obs["slide"] == name], embedding(part, model, mode=mode), atol=1e-5)


def test_views(slide, model):
    some = np.random.default_rng(0).permutation(slide.n_obs)[:60]
    expected = embedding(slide[some].copy(), model)
    with assert_unchanged(slide):
        np.testing.assert_array_equal(embedding(slide[some], model), expected)
        view = slide[some]
        tl.embed(view, model)
    np.testing.assert_array_equal(view.obsm["X_stimage"], expected)


@pytest.mark.parametrize(
    "convert",
    [
        lambda counts: counts.toarray(),
        lambda counts: np.asfortranarray(counts.toarray()),
        lambda counts: counts.toarray().astype(np.int64),
        lambda counts: counts.toarray().astype(np.uint16),
        lambda counts: counts.tocsc(),
        lambda counts: counts.astype(np.int32),
        lambda counts: counts.astype(np.float64),
        lambda counts: sparse.csr_array(counts),
    ],
)
def test_storage_of_counts_does_not_matter(slide, model, convert):
    expected, filled = embedding(slide, model), tl.reconstruct_region(slide, model, size=3, copy=True)
    slide.X = convert(slide.X)
    before = slide.X.copy()
    np.testing.assert_allclose(embedding(slide, model), expected, atol=1e-5)
    other = tl.reconstruct_region(slide, model, size=3, copy=True)
    np.testing.assert_allclose(
        other.layers["stimage_region"].toarray(), filled.layers["stimage_region"].toarray(), atol=1e-4
    )
    tl.embed(slide, model)
    tl.reconstruct_region(slide, model, size=3)
    assert type(slide.X) is type(before)
    assert slide.X.dtype == before.dtype
    assert not (slide.X != before).sum()


@pytest.mark.parametrize("mode", MODES)
def test_spots_without_counts_get_a_vector(slide, model, mode):
    empty = [3, 40, 41, 80]
    counts = slide.X.toarray()
    counts[empty] = 0
    slide.X = sparse.csr_matrix(counts)
    vectors = embedding(slide, model, mode=mode)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[empty]).sum(axis=1).min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_genes_in_another_order_and_genes_without_counts(slide, model, mode):
    expected = embedding(slide, model, mode=mode)
    shuffled = slide[:, np.random.default_rng(0).permutation(slide.n_vars)].copy()
    np.testing.assert_allclose(embedding(shuffled, model, mode=mode), expected, atol=1e-5)
    unknown = anndata.AnnData(sparse.csr_matrix((slide.n_obs, 5), dtype=np.float32), obs=slide.obs[[]])
    unknown.var_names = [f"unknown{number}" for number in range(5)]
    wider = anndata.concat([unknown, slide], axis=1, merge="first")
    wider.obs, wider.uns["grid"] = slide.obs, slide.uns["grid"]
    np.testing.assert_allclose(embedding(wider, model, mode=mode), expected, atol=1e-5)


def test_genes_the_slide_lacks(slide, model):
    some = slide[:, ~slide.var_names.isin(model.genes[:30])].copy()
    tl.embed(some, model)
    assert np.isfinite(some.obsm["X_stimage"]).all()
    assert some.uns["stimage"]["X_stimage"]["n_genes_shared"] == 10


def test_seeds(slide, model):
    first, again, other = (embedding(slide, model, mode="context", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_counts_in_a_layer(slide, model):
    from stimage.models import STImage

    expected = embedding(slide, model)
    slide.layers["counts"] = slide.X.copy()
    slide.X = np.log1p(slide.X.toarray())
    STImage.setup_anndata(slide, layer="counts")
    np.testing.assert_array_equal(embedding(slide, model), expected)


def test_ensembl_ids_and_symbols_give_the_same(slide, pretrain):
    ids = [f"ENSG{number:011}" for number in range(slide.n_vars)]
    slide.var["gene_ids"] = ids
    model = pretrain(slide)
    expected = embedding(slide, model)
    for names in (ids, [f"{name}.7" for name in ids]):
        renamed = slide.copy()
        del renamed.var["gene_ids"]
        renamed.var_names = names
        tl.embed(renamed, model)
        np.testing.assert_array_equal(renamed.obsm["X_stimage"], expected)
        assert renamed.uns["stimage"]["X_stimage"]["n_genes_by_ensembl_id"] == 40
    unnamed = slide.copy()
    unnamed.var_names = [str(number) for number in range(slide.n_vars)]
    tl.embed(unnamed, model)
    np.testing.assert_array_equal(unnamed.obsm["X_stimage"], expected)
    assert unnamed.uns["stimage"]["X_stimage"]["gene_names_from"] == "gene_ids"


def test_adaptation(slide, parts, model):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    expected = embedding(parts[0], model)
    first, again, other = (embedding(parts[0], model, adapt_epochs=1, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, expected)
    assert not np.array_equal(first, other)
    tl.embed(parts[0], model, adapt_epochs=1)
    entry = parts[0].uns["stimage"]["X_stimage"]
    assert (entry["adapted_epochs"], entry["adapted_from"]) == (1, model.model_id)
    assert entry["model_id"] != model.model_id
    for name, tensor in model.module.state_dict().items():
        np.testing.assert_array_equal(before[name], tensor)


@pytest.mark.parametrize("adapt_epochs", [0, 1])
def test_output_to_a_file(slide, model, tmp_path, adapt_epochs):
    options = {"mode": "visible", "adapt_epochs": adapt_epochs}
    with assert_unchanged(slide):
        assert tl.embed(slide, model, output=tmp_path / "embedding", **options) is None
    array = zarr.open_array(str(tmp_path / "embedding"), mode="r")
    tl.embed(slide, model, **options)
    np.testing.assert_array_equal(array[:], slide.obsm["X_stimage"])
    assert dict(array.attrs) == slide.uns["stimage"]["X_stimage"]


def test_output_is_not_what_is_written_to_adata(slide, stained, model, aligner, tmp_path):
    with assert_unchanged(slide, stained):
        for options in ({"copy": True}, {"key_added": "X_other"}):
            with pytest.raises(ValueError, match="are for what is written to `adata`.*leave them out"):
                tl.embed(slide, model, output=tmp_path / "embedding", **options)
        with pytest.raises(TypeError, match="no option 'output'"):
            tl.embed(stained, aligner, output=tmp_path / "embedding")
        with pytest.raises(FileExistsError, match="`output`"):
            tl.embed(slide, model, output=tmp_path, adapt_epochs=10**6)
        with pytest.raises(TypeError, match="`output` must be a path"):
            tl.embed(slide, model, output=7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("modality", ["image", "gene", "fused"])
@pytest.mark.parametrize("level", ["spot", "niche", "both"])
def test_what_an_aligner_writes(stained, aligner, modality, level):
    with assert_unchanged(stained):
        assert tl.embed(stained, aligner, modality=modality, level=level) is None
        vectors, notes = stained.obsm.pop("X_stimage"), stained.uns.pop("stimage")
    assert vectors.shape == (stained.n_obs, 32 if level == "both" else 16)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, aligner.get_latent_representation(stained, modality=modality, level=level))
    (entry,) = notes.values()
    assert (entry["modality"], entry["level"]) == (modality, level)
    assert (entry["model"], entry["image_encoder"]) == ("STAlign", "tiny")
    assert (entry["model_id"], entry["n_genes_shared"]) == (aligner.model_id, 40)
    assert json.loads(entry["manifest"]) == aligner.manifest_record()


def test_defaults_of_aligners(stained, aligner):
    for model, modality, level in [
        (aligner, "fused", "both"),
        (aligner_of(stained, niches=False), "fused", "spot"),
        (aligner_of(stained, image_encoder=None), "gene", "both"),
        (aligner_of(stained, image_encoder=None, config=replace(TINY, adaptive=False)), "gene", "both"),
    ]:
        tl.embed(stained, model)
        entry = stained.uns["stimage"]["X_stimage"]
        assert (entry["modality"], entry["level"]) == (modality, level)
        expected = model.get_latent_representation(stained, modality=modality, level=level)
        np.testing.assert_array_equal(stained.obsm["X_stimage"], expected)


def test_copy_of_an_aligner(stained, aligner):
    with assert_unchanged(stained):
        copy = tl.embed(stained, aligner, key_added="X_image", modality="image", copy=True)
    assert set(copy.obsm) - set(stained.obsm) == {"X_image"}
    tl.embed(copy, aligner, key_added="X_gene", modality="gene")
    assert sorted(copy.uns["stimage"]) == ["X_gene", "X_image"]


def test_the_image_of_an_aligner_is_looked_for_in_a_folder(stained, aligner, tmp_path):
    entry = stained.uns["spatial"]["slide_1"]
    Image.fromarray(entry["images"].pop("hires")).resize((640, 720)).save(tmp_path / "slide.png")
    entry["metadata"] = {"source_image_path": "slide.png"}
    cache = tmp_path / "cache"
    with assert_unchanged(stained), pytest.raises(KeyError, match="no file 'slide.png'.*`image_dir=`"):
        tl.embed(stained, aligner)
    tl.embed(stained, aligner, image_dir=tmp_path, cache_dir=cache)
    assert len(list(cache.iterdir())) == 2
    expected = aligner.get_latent_representation(stained, image_dir=tmp_path, cache_dir=cache)
    np.testing.assert_array_equal(stained.obsm["X_stimage"], expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "context"),
        ("tile_size", 8),
        ("n_genes", 10),
        ("batch_size", 64),
        ("adapt_epochs", 1),
    ],
)
def test_options_of_windows_are_refused_by_an_aligner(stained, aligner, name, value):
    with assert_unchanged(stained), pytest.raises(TypeError, match=f"{name}.*STAlign|STAlign.*no option {name!r}"):
        tl.embed(stained, aligner, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("modality", "gene"), ("level", "spot"), ("image_dir", "images"), ("cache_dir", "cache")]
)
def test_options_of_aligners_are_refused_by_a_model_of_windows(slide, model, name, value):
    with (
        assert_unchanged(slide),
        pytest.raises(TypeError, match=f"`STImage.get_latent_representation` has no option {name!r}.*It takes 'mode'"),
    ):
        tl.embed(slide, model, **{name: value})


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"modality": "protein"}, ValueError, "`modality` must be one of"),
        (None, {"level": "slide"}, ValueError, "`level` must be one of"),
        (None, {"key_added": "setup"}, ValueError, "is taken"),
        (lambda a: a.uns.pop("spatial"), {}, KeyError, "No image"),
        (lambda a: a.uns.pop("spatial"), {"modality": "image"}, KeyError, "No image"),
        (lambda a: a.obsp.pop("niche_connectivities"), {"modality": "gene"}, KeyError, "No niches"),
        (lambda a: a.uns.pop("grid"), {}, KeyError, "No compact grid"),
        (lambda a: setattr(a, "X", -a.X), {}, ValueError, "negative values"),
        (lambda a: setattr(a, "var_names", [f"other{i}" for i in range(60)]), {}, ValueError, "0 genes of adata.var"),
    ],
)
def test_bad_input_to_an_aligner(stained, aligner, change, options, error, message):
    if change is not None:
        change(stained)
    with assert_unchanged(stained), pytest.raises(error, match=message):
        tl.embed(stained, aligner, **options)


def test_counts_may_be_in_a_layer(slide, model):
    adata = slide
    tl.embed(adata, model)
    other = adata.copy()
    other.layers["counts"], other.X = other.X.copy(), other.X * 0.25
    del other.uns["stimage"]
    tl.embed(other, model, layer="counts")
    np.testing.assert_array_equal(other.obsm["X_stimage"], adata.obsm["X_stimage"])
    tl.reconstruct_region(adata, model, size=3)
    tl.reconstruct_region(other, model, size=3, layer="counts")
    pd.testing.assert_frame_equal(other.uns["stimage_region"]["errors"], adata.uns["stimage_region"]["errors"])
    holes = tl.fill_holes(other, model, layer="counts")
    np.testing.assert_array_equal(holes.X, tl.fill_holes(adata, model).X)
    with pytest.raises(KeyError, match="`layer`='spliced' is not in adata.layers"):
        tl.embed(other, model, layer="spliced")
