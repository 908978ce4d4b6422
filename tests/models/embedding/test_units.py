"""Models of other sample units than windows: what an embedding depends on, saving, regions, budgets, bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from scipy import sparse

from stimage import tl
from stimage.data import Corpus, NearestSites, macro_domains
from stimage.models import STImage

UNITS = ["spot", "neighborhood", "slice"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
TRAINING = {"max_epochs": 3, "windows_per_epoch": 64}
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*num_workers")


@pytest.fixture(scope="module")
def models(simulated_tissue, fit):
    """A model of each unit; not to be changed."""
    return {unit: fit(simulated_tissue, unit=unit, training=TRAINING) for unit in UNITS}


@pytest.fixture(params=UNITS)
def model(request, models):
    return models[request.param]


@pytest.fixture
def slide(model):
    """The slide, with a fixed centre: changes of a site change nothing else."""
    (slide,) = model.corpus
    return replace(slide, centre=slide.gene_mean)


def same_weights(first, second):
    pairs = zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def embed(model, slide, **options):
    rows = model.get_latent_representation(Corpus([slide], model.genes), **options)
    sites = np.empty_like(rows)
    sites[slide.site_of_observation] = rows
    return sites


def changed_at(slide, site, scale=1.0):
    expression = slide.expression.toarray()
    expression[site] += scale * np.random.default_rng(0).random(expression.shape[1]).astype(np.float32)
    return replace(slide, expression=sparse.csr_matrix(expression))


def test_loss_falls(model):
    loss = model.history["train_loss"].iloc[:, 0]
    assert np.isfinite(loss).all()
    assert loss.iloc[-1] < loss.iloc[0]
    assert model.spec.masking == "site_gene"


def test_what_stands_for_a_hidden_value_is_learned(model):
    assert model.module.mask_token.detach().abs().max() > 0


def test_training_is_set_by_the_seed(tissue, fit, model):
    options = {"unit": model.unit.name, "training": {"max_epochs": 1}}
    first = fit(tissue, **options)
    assert same_weights(first, fit(tissue, **options))
    assert same_weights(first, fit(tissue, unit=model.unit.name, training={"max_epochs": 1, "num_workers": 2}))
    assert not same_weights(first, fit(tissue, seed=1, **options))


def test_as_many_tokens_as_the_window_model(models, trained, fit, tissue):
    n_windows = 3 * 64
    assert {unit: model.n_tokens_seen for unit, model in models.items()} == {
        "spot": n_windows * 64,
        "neighborhood": n_windows * 4 * 17,
        "slice": n_windows * 64,
    }
    # Windows have holes, and reach over the edge of the tissue.
    assert 0.6 * 4 * 24 * 64 < trained.n_tokens_seen <= 4 * 24 * 64
    twice = fit(tissue, unit="spot", training={"max_epochs": 1})
    twice.train(1, batch_size=8, windows_per_epoch=24, **QUIET)
    assert twice.n_tokens_seen == 2 * 24 * 64


def test_embedding(model, tissue):
    with assert_unchanged(tissue):
        embedding = model.get_latent_representation(tissue)
    assert embedding.shape == (tissue.n_obs, model.autoencoder.dim)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all()
    np.testing.assert_array_equal(model.get_latent_representation(mode="visible"), embedding)
    np.testing.assert_allclose(model.get_latent_representation(batch_size=1), embedding, atol=1e-5)
    few, again, other = (model.get_latent_representation(n_genes=10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(few, again)
    assert not np.array_equal(few, other)


def test_embedding_depends_on_the_context_alone(model, slide):
    site = int(np.flatnonzero(slide.active)[100])
    # Too small a change to move a spot to another macro-domain.
    changed = changed_at(slide, site, scale=0.01)
    before, after = embed(model, slide), embed(model, changed)
    moved = set(np.flatnonzero(np.abs(after - before).max(axis=1) > 1e-6).tolist())
    if model.unit.name == "spot":
        assert moved == {site}
    elif model.unit.name == "neighborhood":
        nearest = NearestSites(slide)(np.arange(slide.n_sites), 16)
        assert moved == {site, *np.flatnonzero((nearest == site).any(axis=1)).tolist()}
    else:
        domains = macro_domains(slide, 8)
        np.testing.assert_array_equal(domains, macro_domains(changed, 8))
        members = np.flatnonzero(domains == domains[site])
        assert 2 < len(members) < slide.n_sites / 2
        assert moved == set(members.tolist())


def test_embedding_is_that_of_one_spot_at_a_time(model, slide):
    """The written-out equation, on all genes: context from the whole slide."""
    module, genes = model.module, torch.arange(len(model.genes)).unsqueeze(0)
    centred = torch.from_numpy((slide.expression.toarray() - slide.gene_mean).astype(np.float32))
    nearest = NearestSites(slide)(np.arange(slide.n_sites), 16)
    domains = macro_domains(slide, 8)
    embedding = embed(model, slide)
    for site in range(0, slide.n_sites, 60):
        sites, group = [site], [0]
        if model.unit.name == "neighborhood":
            sites, group = [site, *nearest[site]], [0] * 17
        elif model.unit.name == "slice":
            members = np.flatnonzero(domains == domains[site])
            sites, group = [site, *members[members != site]], [0] * len(members)
        with torch.no_grad():
            tokens = module.genes(centred[sites].unsqueeze(0), genes)
            observed, group = torch.ones(1, len(sites), dtype=torch.bool), torch.tensor(group).unsqueeze(0)
            expected = module(tokens, observed, group)[0, 0]
        np.testing.assert_allclose(embedding[site], expected, atol=1e-4)


def test_a_site_without_counts(model, tissue):
    counts = tissue.X.toarray()
    counts[[5, 100]] = 0
    tissue.X = sparse.csr_matrix(counts)
    embedding = model.get_latent_representation(tissue)
    assert np.isfinite(embedding).all()
    # What is stored for such a site is never read.
    (slide,) = Corpus.from_anndata(tissue, genes=model.genes)
    other = changed_at(slide, int(slide.site_of_observation[5]))
    np.testing.assert_array_equal(model.get_latent_representation(Corpus([other], model.genes)), embedding)


def test_saving(model, tissue, tmp_path):
    model.save(tmp_path / "model")
    loaded = STImage.load(tmp_path / "model")
    assert loaded.unit == model.unit
    assert loaded.n_tokens_seen == model.n_tokens_seen
    assert same_weights(loaded, model)
    np.testing.assert_array_equal(loaded.get_latent_representation(tissue), model.get_latent_representation(tissue))


def test_damaged_unit(model, tmp_path):
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for unit in ({"name": "cell"}, {"name": "patch"}, {"size": 3}, None):
        (tmp_path / "config.json").write_text(json.dumps({**config, "unit": unit}))
        with pytest.raises(ValueError, match="is damaged"):
            STImage.load(tmp_path)


def test_adapting(model, tissue):
    adapted = model.adapt(tissue, 1, batch_size=8, windows_per_epoch=8, **QUIET)
    assert adapted.unit == model.unit
    assert adapted.n_tokens_seen > model.n_tokens_seen
    assert not same_weights(adapted, model)


def test_windows_are_the_default(tissue, fit, trained):
    assert trained.unit.name == "patch"
    assert same_weights(fit(tissue, unit="patch", training={"max_epochs": 4}), trained)
    embedding = trained.get_latent_representation()
    np.testing.assert_array_equal(trained.get_latent_representation(mode="context"), embedding)


@pytest.mark.parametrize("unit", ["spot", "neighborhood"])
def test_regions_are_the_nearest_embeddings_decoded(models, tissue, unit):
    model = models[unit]
    (slide,) = model.corpus
    hidden = np.zeros(slide.n_sites, dtype=bool)
    hidden[200:230] = True
    filled = model.reconstruct(slide, hidden, calibrated=False)
    shown = slide.hide(hidden)
    embedding = embed(model, shown)
    nearest = NearestSites(shown)(np.flatnonzero(hidden), 16)
    assert not hidden[nearest].any()
    with torch.no_grad():
        centred = model.module.genes.decode_all(torch.from_numpy(embedding[nearest].mean(axis=1))).numpy()
    np.testing.assert_allclose(filled, np.maximum(centred + shown.gene_mean, 0), atol=1e-4)
    # Nothing of the hidden sites enters.
    expression = slide.expression.toarray()
    expression[hidden] = 7
    other = replace(slide, expression=sparse.csr_matrix(expression))
    np.testing.assert_array_equal(model.reconstruct(other, hidden, calibrated=False), filled)
    np.testing.assert_array_equal(model.reconstruct(other, hidden), model.reconstruct(slide, hidden))
    tl.reconstruct_region(tissue, model, size=4)
    assert np.isfinite(tissue.uns["stimage_region"]["mse"])


def test_tl(model, tissue):
    tl.embed(tissue, model)
    np.testing.assert_array_equal(tissue.obsm["X_stimage"], model.get_latent_representation(tissue))
    entry = tissue.uns["stimage"]["X_stimage"]
    assert (entry["unit"], entry["mode"], entry["tile_size"]) == (model.unit.name, "visible", 0)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("options", [{"gene_selection": "hvg"}, {"gene_selection": "random"}, {"preset": "paper"}])
def test_other_options(tissue, fit, unit, options):
    training = {"max_epochs": 1, "windows_per_epoch": 2, "batch_size": 2}
    model = fit(tissue, unit=unit, neighbor_weights="fixed", training=training, **options)
    assert np.isfinite(model.get_latent_representation()).all()


def test_validation(tissue, fit):
    model = fit(tissue, unit="slice", window=4, training={"validation_size": 0.1})
    assert sorted(model.history) == ["train_loss", "validation_loss"]
    assert np.isfinite(model.history["validation_loss"].to_numpy()).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": "cell"}, ValueError, "`unit` must be one of .*'neighborhood'.* found 'cell'"),
        ({"unit": None}, ValueError, "`unit` must be one of"),
        ({"unit": "spot", "masking": "site"}, ValueError, "`masking`='site' hides sites.*leave `masking` out"),
        ({"unit": "neighborhood", "n_neighbors": 0}, ValueError, "`n_neighbors` must be at least 1"),
        ({"unit": "neighborhood", "n_neighbors": 64}, ValueError, "`n_neighbors`=64 .*fewer neighbours"),
        ({"unit": "neighborhood", "n_neighbors": 2.0}, TypeError, "`n_neighbors` must be an integer"),
        ({"unit": "neighborhood", "neighbor_weights": "mean"}, ValueError, "`neighbor_weights` must be one of"),
        ({"unit": "slice", "n_macro_domains": 0}, ValueError, "`n_macro_domains` must be at least 1"),
    ],
)
def test_bad_units(tissue, options, error, message):
    with assert_unchanged(tissue):
        with pytest.raises(error, match=message):
            STImage(tissue, window=8, n_pool_genes=60, **options)
        with pytest.raises(error, match=message):
            tl.pretrain(tissue, window=8, n_pool_genes=60, model_kwargs=options)


def test_what_units_cannot_do(model, tissue):
    with assert_unchanged(tissue):
        with pytest.raises(ValueError, match="`mode`='context' hides sites.*pass `mode='visible'`"):
            tl.embed(tissue, model, mode="context")
        with pytest.raises(ValueError, match="`tile_size`=8 is for windows"):
            tl.embed(tissue, model, tile_size=8)
        if model.unit.name == "slice":
            with pytest.raises(ValueError, match="cannot fill in hidden sites.*`unit='patch'`"):
                tl.reconstruct_region(tissue, model, size=4)
