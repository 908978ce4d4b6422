"""Where models run: on a device that stands in for a GPU against the CPU, and in 16 bits against 32."""

import copy

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from slides import random_slide
from stained import aligner_of, tiny_encoder
from stand_in import DEVICE, StandIn, There
from torch import nn

from stimage import tl
from stimage.data import Corpus
from stimage.models import STAlign, STImage, _devices
from stimage.models._devices import find_device, on_device, place_of, trainer_devices

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """As if there were two GPUs, which nothing can be computed on."""
    found = {"cuda": [torch.device("cuda", number) for number in (0, 1)], "cpu": [CPU]}
    monkeypatch.setattr(_devices, "available_devices", lambda: found)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.fixture
def elsewhere(monkeypatch):
    """A device beside the CPU, on which everything can be computed."""
    monkeypatch.setattr(_devices, "available_devices", lambda: {"mps": [DEVICE], "cpu": [CPU]})
    return StandIn()


@pytest.fixture
def moves(monkeypatch):
    """Modules that were moved, and where to."""
    moved, move = [], nn.Module.to

    def noted(module, device):
        moved.append((type(module).__name__, torch.device(device).type))
        return move(module, device)

    monkeypatch.setattr(nn.Module, "to", noted)
    return moved


class TestChoice:
    def test_here(self):
        assert find_device() == find_device("cpu") == find_device("cpu", 0) == find_device(device="0") == CPU

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            (("auto", "auto"), "cuda:0"),
            (("gpu", 1), "cuda:1"),
            (("cuda", "1"), "cuda:1"),
            (("auto", 1), "cuda:1"),
            (("cpu", "auto"), "cpu"),
        ],
    )
    def test_with_gpus(self, gpus, asked, found):
        assert find_device(*asked) == torch.device(found)

    def test_a_process_has_its_own_gpu(self, gpus, monkeypatch):
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        assert find_device() == torch.device("cuda:1") and find_device(device=0) == torch.device("cuda:0")

    def test_what_was_moved_by_hand_stays(self, elsewhere):
        module = nn.Linear(2, 2)
        with elsewhere:
            there = nn.Linear(2, 2, device=DEVICE)
            assert find_device("auto", "auto", None, there) == DEVICE
            with on_device(find_device("auto", "auto", there), there, module):
                assert place_of(module) == DEVICE
        assert place_of(there) == DEVICE and place_of(module) == CPU

    @pytest.mark.parametrize(
        ("asked", "error", "said"),
        [
            (("abacus", "auto"), ValueError, "`accelerator`.*'auto', 'cpu', 'gpu', 'cuda', 'mps'.*'abacus'"),
            ((None, "auto"), ValueError, "`accelerator`.*None"),
            (("mps", "auto"), ValueError, "`accelerator`='mps'.*available: 'cuda', 'cpu'"),
            (("auto", 2), ValueError, "`device`=2.*'cuda'.*available: 'cuda:0', 'cuda:1'"),
            (("cpu", 1), ValueError, "`device`=1.*'cpu'"),
            (("gpu", "cuda:1"), ValueError, "`device`.*'cuda:1'"),
            (("gpu", -1), ValueError, "`device`.*-1"),
            (("gpu", 1.0), TypeError, "`device`.*float"),
        ],
    )
    def test_refused(self, gpus, asked, error, said):
        with pytest.raises(error, match=said):
            find_device(*asked)

    def test_no_gpu_here(self, monkeypatch):
        monkeypatch.setattr(_devices, "available_devices", lambda: {"cpu": [CPU]})
        for name in ("gpu", "cuda", "mps"):
            with pytest.raises(ValueError, match=f"`accelerator`='{name}'.*available: 'cpu'"):
                find_device(name)

    def test_in_the_words_of_the_trainer(self, gpus):
        assert trainer_devices("auto", "auto") == {"accelerator": "auto", "devices": "auto"}
        assert trainer_devices("gpu", "1") == {"accelerator": "gpu", "devices": [1]}
        assert trainer_devices("cpu", 0) == {"accelerator": "cpu", "devices": "auto"}


class TestMoving:
    def test_back_after_an_error_and_trainable(self, elsewhere):
        module = nn.Linear(3, 2)
        expected = module.weight.detach().clone()
        with elsewhere, pytest.raises(RuntimeError, match="broken"), on_device(DEVICE, module):
            assert isinstance(module.weight, There) and torch.is_inference_mode_enabled()
            raise RuntimeError("broken")
        assert place_of(module) == CPU and not torch.is_inference_mode_enabled()
        torch.testing.assert_close(module.weight, expected, rtol=0, atol=0)
        module(torch.ones(1, 3)).sum().backward()
        assert module.weight.grad is not None

    def test_what_was_moved_comes_back_when_the_next_does_not_fit(self, elsewhere):
        class Large(nn.Linear):
            def to(self, device):
                if device == DEVICE:
                    raise MemoryError("does not fit")
                return super().to(device)

        small, large = nn.Linear(2, 2), Large(2, 2)
        with elsewhere, pytest.raises(MemoryError), on_device(DEVICE, small, large):
            raise AssertionError
        assert place_of(small) == place_of(large) == CPU

    def test_only_what_is_not_there_is_moved(self, elsewhere, moves):
        module = nn.Linear(2, 2)
        with elsewhere, on_device(DEVICE, module, None, module, nn.Identity()), on_device(DEVICE, module):
            pass
        assert moves == [("Linear", "meta"), ("Linear", "cpu")]
        with on_device(CPU, module):
            pass
        assert len(moves) == 2

    def test_the_stand_in_notices_tensors_of_the_cpu(self, elsewhere):
        with elsewhere, on_device(DEVICE, module := nn.Linear(2, 2)):
            for inference in (True, False):
                with torch.inference_mode(inference), pytest.raises(RuntimeError, match="on the CPU"):
                    module(torch.zeros(1, 2))
            with pytest.raises((TypeError, RuntimeError), match="numpy"):
                module.weight.numpy()


def corpus():
    slides = [random_slide(14, 13, n_genes=30, name=f"slide{number}", seed=number) for number in range(2)]
    return Corpus(slides, [f"gene{number}" for number in range(30)])


def agitated(model):
    """A model whose blocks do something: they start as the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


WINDOWS = {
    "default": {},
    "paper": {"preset": "paper"},
    "spot": {"unit": "spot"},
    "neighborhood": {"unit": "neighborhood", "n_neighbors": 4},
    "slice": {"unit": "slice", "n_macro_domains": 3},
}


@pytest.fixture(scope="module")
def models():
    options = {"window": 6, "n_genes": 20, "spectral_start": False}
    return {name: agitated(STImage(corpus(), **options, **chosen)) for name, chosen in WINDOWS.items()}


EMBEDDINGS = [
    ("default", {"mode": "visible"}),
    ("default", {"mode": "context"}),
    ("default", {"mode": "visible", "n_genes": 10}),
    ("paper", {"mode": "visible"}),
    ("paper", {"mode": "context"}),
    ("spot", {}),
    ("spot", {"n_genes": 10}),
    ("neighborhood", {}),
    ("slice", {}),
]


class TestStandIn:
    """The same calls on a device that stands in for a GPU: equal results, everything made there, everything put back."""

    def check(self, elsewhere, call, *modules, tolerance=1e-5):
        expected = call(accelerator="cpu")
        with elsewhere:
            found = call()
        assert elsewhere.operations["addmm"] + elsewhere.operations["mm"] > 0, "nothing ran there"
        assert torch.float64 not in elsewhere.dtypes  # which Apple's GPUs do not have
        assert {place_of(module) for module in modules} == {CPU}
        for one, other in zip(found, expected, strict=True):
            assert isinstance(one, np.ndarray) and one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("name", "options"), EMBEDDINGS)
    def test_embedding(self, elsewhere, models, name, options):
        model = models[name]
        if options.get("mode") == "context":
            model.fit_readout(accelerator="cpu")

        def call(**where):
            return [model.get_latent_representation(**options, **where)]

        self.check(elsewhere, call, model.module, tolerance=1e-4)
        if name != "slice":  # whose domains are counted
            assert not elsewhere.operations["item"]  # a GPU is never waited for but to fetch vectors

    def test_readout(self, elsewhere, models):
        model = models["default"]

        def call(**where):
            model.fit_readout(**where)
            return [model.readout.axes, model.readout.scales]

        self.check(elsewhere, call, model.module, tolerance=1e-3)

    @pytest.mark.parametrize("name", ["default", "paper", "spot", "neighborhood"])
    def test_reconstruction(self, elsewhere, models, name, moves):
        model, slide = models[name] if name != "spot" else models["spot"], corpus()[0]
        hidden = np.isin(slide.raster, slide.raster[4:7, 5:8])
        hidden = np.isin(np.arange(slide.n_sites), slide.raster[hidden])
        if name == "paper":
            hidden[:] = False
            hidden[slide.raster[:, :9][slide.raster[:, :9] >= 0]] = True  # more than a window

        def call(**where):
            return [model.reconstruct(slide, hidden, interval=0.8, context=2, **where)]

        self.check(elsewhere, call, model.module, tolerance=1e-4)
        assert len(moves) == 2  # there and back, whatever the number of regions that it practises on

    @pytest.fixture(scope="class")
    def sections(self, simulated_stained_pair):
        from stained import apart

        return apart(simulated_stained_pair)

    @pytest.fixture(scope="class")
    def fused(self, sections):
        return aligner_of([sections[0].copy()])

    @pytest.mark.parametrize("modality", ["image", "gene", "fused"])
    def test_aligner(self, elsewhere, fused, sections, modality, tmp_path, moves):
        def call(accelerator="auto"):
            options = {"modality": modality, "cache_dir": tmp_path / accelerator, "accelerator": accelerator}
            return [fused.get_latent_representation(sections[1], **options)]

        self.check(elsewhere, call, fused.module, fused.image_encoder, tolerance=1e-4)
        names = ["SpotNicheAligner"] + (["ImageEncoder"] if modality != "gene" else [])
        assert sorted(moves) == sorted((name, place) for name in names for place in ("meta", "cpu"))

    @pytest.mark.parametrize("method", ["regression", "retrieval"])
    def test_prediction(self, elsewhere, fused, sections, method, tmp_path):
        def call(accelerator="auto"):
            options = {"method": method, "cache_dir": tmp_path / accelerator, "accelerator": accelerator}
            return [fused.predict_expression(sections[1], n_neighbors=5, **options)]

        self.check(elsewhere, call, fused.module, fused.image_encoder, tolerance=1e-3)

    def test_query_and_bare_image(self, elsewhere, fused, sections, tmp_path):
        (library,) = sections[1].uns["spatial"].values()

        def call(accelerator="auto"):
            where = {"accelerator": accelerator}
            asked = tl.query(
                sections[1], fused, str(fused.genes[0]), copy=True, cache_dir=tmp_path / accelerator, **where
            )
            image = {"image": library["images"]["hires"], "micrometres_per_pixel": 10.0, "spot_distance": 160.0}
            places = tl.predict_expression(None, fused, **image, tissue="all", **where)
            return [asked.obs["stimage_query"].to_numpy(), places.layers["stimage_predicted"]]

        self.check(elsewhere, call, fused.module, fused.image_encoder, tolerance=1e-3)

    def test_encoders_of_a_new_aligner(self, elsewhere, sections, tmp_path, fit):
        adata = sections[0].copy()
        frozen = fit(adata, window=4, training={"max_epochs": 1})

        def call(accelerator="auto"):
            image, where = tiny_encoder(), {"accelerator": accelerator, "cache_dir": tmp_path / accelerator}
            model = STAlign(adata, image_encoder=image, gene_encoder=frozen, n_pool_genes=40, **where)
            assert place_of(image) == CPU
            slide = model.paired.slides[0]
            return [slide.spot_embedding, np.abs(slide.spot_image), np.abs(slide.niche_image)]

        self.check(elsewhere, call, frozen.module, tolerance=1e-3)

    def test_slides_one_after_the_other(self, elsewhere, tissue, trained, moves):
        second = tissue.copy()
        with elsewhere:
            tl.embed([tissue, second], trained)
        assert moves == [("MaskedAutoencoder", "meta"), ("MaskedAutoencoder", "cpu")]
        np.testing.assert_array_equal(second.obsm["X_stimage"], tissue.obsm["X_stimage"])
        two = torch.cat([torch.zeros(1)])  # nothing of the stand-in is left
        assert type(two) is torch.Tensor


CALLS = {
    "embed": lambda adata, model, aligner, **where: tl.embed(adata, model, **where),
    "embed without a model": lambda adata, model, aligner, **where: tl.embed(adata, **where),
    "embed in closed form": lambda adata, model, aligner, **where: tl.embed(adata, "closed", **where),
    "reconstruct_region": lambda adata, model, aligner, **where: tl.reconstruct_region(adata, model, size=3, **where),
    "fill_holes": lambda adata, model, aligner, **where: tl.fill_holes(adata, model, **where),
    "align": lambda adata, model, aligner, **where: tl.align(adata, max_epochs=1, **where),
    "predict_expression": lambda adata, model, aligner, **where: tl.predict_expression(adata, aligner, **where),
    "query": lambda adata, model, aligner, **where: tl.query(adata, aligner, str(aligner.genes[0]), **where),
    "bare image": lambda adata, model, aligner, **where: tl.predict_expression(
        None,
        aligner,
        image=np.full((90, 90, 3), 200, np.uint8),
        micrometres_per_pixel=1.0,
        spot_distance=30,
        tissue="all",
        **where,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_devices_are_refused_before_any_work(name, stained, fit, aligner, gpus, moves):
    model = fit(stained, window=4, training={"max_epochs": 1})
    moves.clear()
    for where, said in (
        ({"accelerator": "abacus"}, "`accelerator`.*'abacus'"),
        ({"accelerator": "mps"}, "available: 'cuda', 'cpu'"),
        ({"device": 2}, "`device`=2.*'cuda:1'"),
        ({"accelerator": "gpu", "device": "first"}, "`device`.*'first'"),
    ):
        with assert_unchanged(stained), pytest.raises(ValueError, match=said):
            CALLS[name](stained, model, aligner, **where)
    assert not moves


def test_the_closed_form_says_that_it_runs_no_model(tissue, gpus):
    with assert_unchanged(tissue), pytest.raises(ValueError, match="closed form is computed on the CPU"):
        tl.embed(tissue, "closed", accelerator="gpu")
    tl.embed(tissue, "closed", accelerator="cpu")
    named = tissue.obsm["X_stimage"]
    tl.embed(tissue, "closed")
    np.testing.assert_array_equal(tissue.obsm["X_stimage"], named)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="the default is the CPU")
def test_cpu_is_the_default_here(tissue, trained):
    for call in (
        lambda **where: trained.get_latent_representation(tissue, **where),
        lambda **where: trained.reconstruct_region(tissue, size=4, **where).expression.toarray(),
    ):
        np.testing.assert_array_equal(call(), call(accelerator="cpu", device=0))


def cosines(one, other):
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one.astype(float) * other).sum(axis=1) / lengths


class TestHalfPrecision:
    """bfloat16 on the CPU, as it is used on GPUs, against 32 bits."""

    @pytest.mark.parametrize(("name", "options"), EMBEDDINGS)
    def test_embedding(self, models, name, options):
        model = models[name]
        expected = model.get_latent_representation(**options)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.get_latent_representation(**options)
        assert found.dtype == np.float32
        assert not np.array_equal(found, expected)
        assert cosines(found, expected).min() > 0.999

    @pytest.mark.parametrize("name", ["default", "paper", "neighborhood"])
    def test_reconstruction(self, models, name):
        model, slide = models[name], corpus()[0]
        hidden = np.isin(np.arange(slide.n_sites), slide.raster[4:7, 5:8])
        # Without the calibration, which takes little of an untrained model.
        expected = model.reconstruct(slide, hidden, calibrated=False)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.reconstruct(slide, hidden, calibrated=False)
        assert found.dtype == np.float32
        assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.01

    def test_aligner(self, aligner, stained, tmp_path):
        expected = aligner.get_latent_representation(stained, cache_dir=tmp_path)
        with torch.autocast("cpu", torch.bfloat16):
            found = aligner.get_latent_representation(stained, cache_dir=tmp_path)
        assert cosines(found, expected).min() > 0.999
        # Features of 16 bits and of 32 are kept apart.
        again = aligner.get_latent_representation(stained, cache_dir=tmp_path)
        np.testing.assert_array_equal(again, expected)
        assert len({path.name for path in tmp_path.iterdir()}) == 4


def test_a_copy_of_a_model_that_ran_elsewhere_can_be_trained(elsewhere, models):
    model = models["default"]
    with elsewhere:
        model.get_latent_representation(mode="visible")
    module = copy.deepcopy(model.module).train()
    tokens = module.genes(torch.randn(1, 5, 30), torch.arange(30).unsqueeze(0))
    tissue = torch.ones(1, 5, dtype=torch.bool)
    module(tokens, torch.randn(1, 5, 2), tissue, ~tissue).sum().backward()
    assert module.genes.embedding.grad is not None
