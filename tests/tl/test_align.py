import inspect
from dataclasses import replace

import anndata
import lightning
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged, in_groups
from stained import QUIET, TINY, aligner_of, prepared, stained_tissue, tiny_encoder

from stimage import tl
from stimage.models import PatchSpec, STAlign, STImage
from stimage.modules import AlignerConfig

SHORT = {"n_pool_genes": 40, "config": TINY, "max_epochs": 2, "batch_size": 32, **QUIET}


def align(adatas, **options):
    options = {"image_encoder": tiny_encoder(), **SHORT, **options}
    return tl.align(adatas, **in_groups(tl.align, **options))


def test_what_is_written(stained):
    with assert_unchanged(stained):
        model = align(stained)
        notes = stained.uns.pop("stimage")
    assert notes == {"setup": {"layer": "", "slide_key": "", "grid_key": "grid", "donor_key": ""}}
    assert isinstance(model, STAlign)
    assert model.is_trained
    assert len(model.history["train_loss"]) == 2
    assert model.model_id == aligner_of(stained).model_id


def test_options_reach_the_model(stained):
    options = {
        "genes": stained.var_names[:30].tolist(),
        "niche_image_encoder": tiny_encoder(width=8, seed=1),
        "patches": PatchSpec((1.0,), (1.0,)),
        "spot_context": True,
        "n_image_components": 5,
        "config": replace(TINY, fusion=False),
        "spectral_start": False,
        "seed": 3,
    }
    training = {"max_epochs": 3, "batch_size": 16, "negatives": "batch"}
    found = align(stained, **options, **training, learning_rate=2e-3)
    training["plan_kwargs"] = {"learning_rate": 2e-3}
    expected = aligner_of(stained, **options, training=training)
    assert found.model_id == expected.model_id
    assert found.genes.tolist() == options["genes"]
    for name in options.keys() - {"config", "n_image_components", "spectral_start"}:
        other = aligner_of(stained, **{key: value for key, value in options.items() if key != name}, training=training)
        assert other.model_id != found.model_id


@pytest.mark.parametrize(
    "options", [{"niches": False}, {"image_encoder": None}, {"train_image_encoder": True}, {"niche_key": "ring"}]
)
def test_other_options_reach_the_model(stained, options):
    stained.obsp["ring_connectivities"] = stained.obsp["niche_connectivities"][::-1][:, ::-1].copy()
    stained.obsm["ring_bbox"] = stained.obsm["niche_bbox"][::-1].copy()
    found = align(stained, **options)
    assert found.model_id == aligner_of(stained, **options).model_id != aligner_of(stained).model_id


def test_the_preset_of_the_paper(stained):
    model = tl.align(
        stained,
        preset="paper",
        image_encoder=tiny_encoder(),
        n_pool_genes=40,
        max_epochs=1,
        model_kwargs={"niche_image_encoder": tiny_encoder(width=8)},
        trainer_kwargs={key: value for key, value in QUIET.items() if key != "accelerator"},
    )
    assert model.config == AlignerConfig(weights=(0.4, 0.3, 0.3), dropout=0.1, temperature=0.1)
    assert model.patches == PatchSpec((1.0,), (1.0,))
    assert model.optimizer.learning_rate == 5e-4
    assert not model.spectral_start
    assert model.module.spot.fusion is not None
    changed = align(stained, preset="paper", spectral_start=True, plan_kwargs={"learning_rate": 1e-3})
    assert changed.config == TINY
    assert changed.spectral_start
    assert changed.optimizer.learning_rate == 1e-3
    with assert_unchanged(stained), pytest.raises(ValueError, match="`preset` must be one of 'default', 'paper'"):
        align(stained, preset="published")


def test_a_gene_encoder(stained):
    frozen = STImage(stained, window=6, n_pool_genes=40, n_genes=20)
    model = align(stained, gene_encoder=frozen)
    assert model.gene_encoder is frozen
    assert model.n_spot_genes == frozen.autoencoder.dim


def test_folders(stained, tmp_path):
    from PIL import Image

    entry = stained.uns["spatial"]["slide_1"]
    Image.fromarray(entry["images"].pop("hires")).resize((640, 720)).save(tmp_path / "slide.png")
    entry["metadata"] = {"source_image_path": "slide.png"}
    with assert_unchanged(stained), pytest.raises(KeyError, match="no file 'slide.png'.*`image_dir=`"):
        align(stained)
    align(stained, image_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_defaults_are_those_of_the_model():
    found = inspect.signature(tl.align).parameters
    models = [inspect.signature(part).parameters for part in (STAlign, STAlign.train, STAlign.setup_anndata)]
    names = set().union(*models) - {"self", "data", "adata"}
    assert set(found) - {"adatas", "model_kwargs", "options"} <= names
    for parameters in models:
        for name in parameters.keys() & found.keys() - {"trainer_kwargs"}:
            assert found[name].default == parameters[name].default, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model_kwargs": {"nichess": False}},
            "`model_kwargs` has no option 'nichess'; did you mean 'niches'.*'patches'",
        ),
        ({"model_kwargs": {"genes": None}}, "`model_kwargs` holds 'genes', which is a parameter of its own"),
        ({"model_kwargs": ["niches"]}, "`model_kwargs` must be a dict of options, found list"),
        ({"plan_kwargs": {"lr": 1e-3}}, "`plan_kwargs` has no option 'lr'. It takes 'learning_rate'"),
        (
            {"trainer_kwargs": {"negative": "batch"}},
            "`trainer_kwargs` has no option 'negative'; did you mean 'negatives'",
        ),
        ({"trainer_kwargs": {"num_worker": 1}}, "`trainer_kwargs`.*did you mean 'num_workers'"),
        ({"trainer_kwargs": {"accelerator": "cpu"}}, "`trainer_kwargs`.*'accelerator'.*parameter of its own"),
        ({"trainer_kwargs": {"devices": 1}}, "`trainer_kwargs` has no option 'devices'"),
    ],
)
def test_misspelt_options(stained, options, message):
    with assert_unchanged(stained), pytest.raises(TypeError, match=message):
        tl.align(stained, image_encoder=None, **options)


def test_counts_in_a_layer_slides_and_donors(stained_pair):
    expected = align(stained_pair.copy())
    stained_pair.layers["counts"] = stained_pair.X.copy()
    stained_pair.X = np.log1p(stained_pair.X.toarray())
    stained_pair.obs["donor"] = np.where(stained_pair.obs["slide"] == "slide_1", "a", "b")
    model = align(stained_pair, layer="counts", slide_key="slide", donor_key="donor")
    assert model.model_id == expected.model_id
    assert model.manifest["slides"]["name"].tolist() == ["slide_1", "slide_2"]
    assert model.manifest["slides"]["donor"].tolist() == ["a", "b"]
    setup = {"layer": "counts", "slide_key": "slide", "grid_key": "grid", "donor_key": "donor"}
    assert stained_pair.uns["stimage"]["setup"] == setup
    tl.embed(stained_pair, model)  # what was set up is known
    assert sorted(stained_pair.uns["stimage"]) == ["X_stimage", "setup"]


def test_other_results_stay(stained, aligner):
    tl.embed(stained, aligner)
    entry = stained.uns["stimage"]["X_stimage"]
    align(stained)
    assert sorted(stained.uns["stimage"]) == ["X_stimage", "setup"]
    assert stained.uns["stimage"]["X_stimage"] == entry


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_written_to_a_file(stained_pair, tmp_path, form):
    model = align(stained_pair, slide_key="slide")
    tl.embed(stained_pair, model)
    tl.embed(stained_pair, model, key_added="X_image", modality="image", level="spot")
    tl.predict_expression(stained_pair, model)
    path = tmp_path / f"slides.{form}"
    getattr(stained_pair, f"write_{form}")(path)
    read = getattr(anndata, f"read_{form}")(path)
    for key in ("X_stimage", "X_image"):
        np.testing.assert_array_equal(read.obsm[key], stained_pair.obsm[key])
    np.testing.assert_array_equal(read.layers["stimage_predicted"], stained_pair.layers["stimage_predicted"])
    assert read.uns["stimage"] == stained_pair.uns["stimage"]
    assert align(read, slide_key="slide").model_id == model.model_id
    np.testing.assert_array_equal(model.get_latent_representation(read), stained_pair.obsm["X_stimage"])


class Interruption(lightning.Callback):
    """Training that breaks off in its second epoch."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            raise RuntimeError("the machine is needed")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"callbacks": [Interruption()]}, RuntimeError, "the machine is needed"),
        (None, {"accelerator": "abacus"}, ValueError, "abacus"),
        (None, {"unheard_of": 1}, TypeError, "unheard_of"),
        (None, {"image_dir": 3}, TypeError, "`image_dir` must be a path"),
        (None, {"cache_dir": 3}, TypeError, "`cache_dir` must be a path"),
        (None, {"genes": ["a", "b"]}, ValueError, "0 genes of adata.var_names"),
        (None, {"layer": "counts"}, KeyError, "`layer`='counts' is not in adata.layers"),
        (None, {"slide_key": "section"}, KeyError, "`slide_key`='section' is not in adata.obs"),
        (None, {"donor_key": "patient"}, KeyError, "`donor_key`='patient' is not in adata.obs"),
        (None, {"grid_key": "raster"}, KeyError, "No compact grid"),
        (None, {"niche_key": "ring"}, KeyError, "No niches"),
        (None, {"image_encoder": "uni"}, ValueError, "'uni' comes without weights"),
        (None, {"max_epochs": 0}, ValueError, "`max_epochs` must be at least 1"),
        (None, {"batch_size": 1}, ValueError, "`batch_size` must be at least 2"),
        (None, {"negatives": "all"}, ValueError, "`negatives` must be one of"),
        (None, {"num_workers": 0.5}, TypeError, "`num_workers` must be an integer"),
        (None, {"learning_rate": -1}, ValueError, "`learning_rate` must be between"),
        (lambda a: a.obsp.pop("niche_connectivities"), {}, KeyError, "No niches"),
        (lambda a: a.uns.pop("grid"), {}, KeyError, "No compact grid"),
        (lambda a: a.uns.pop("spatial"), {}, KeyError, "No image.*`image_encoder=None`"),
        (lambda a: setattr(a, "X", a.X * 0.5), {}, ValueError, "raw counts are needed"),
        (lambda a: setattr(a, "obs_names", ["spot"] * a.n_obs), {}, ValueError, "repeated names"),
    ],
)
def test_nothing_is_changed_where_training_fails(stained, change, options, error, message, earlier):
    other = prepared(stained_tissue(seed=4))
    if earlier:
        STAlign.setup_anndata(stained, donor_key="slide")
        stained.uns["stimage"]["X_earlier"] = {"model_id": "0"}
    stained.uns["last"] = 1
    if change is not None:
        change(stained)
    with assert_unchanged(stained, other), pytest.raises(error, match=message):
        align([other, stained], **options)


def test_other_things_than_anndata():
    for value, message in ((None, "found NoneType"), ([], "empty list"), ([pd.DataFrame()], "found DataFrame")):
        with pytest.raises(TypeError, match=f"`adatas` must be an AnnData.*{message}"):
            tl.align(value)
