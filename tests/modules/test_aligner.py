import json
import math
from dataclasses import asdict
from itertools import combinations, product

import pytest
import torch
from torch import nn
from torch.nn import functional

from stimage.modules import (
    AlignerConfig,
    AlignmentBatch,
    FeatureTokens,
    GeneMLPEncoder,
    GeneTransformerEncoder,
    SpotNicheAligner,
)

SIZES = {"n_spot_image": 5, "n_niche_image": 6, "n_spot_genes": 9, "n_niche_genes": 10}
PARTS = ("spot_image", "niche_image", "spot_genes", "niche_genes")


def small(**options):
    sizes = {"dim": 8, "n_tokens": 3, "n_fused": 10, "n_layers": 1, "n_heads": 2}
    return AlignerConfig(**{**sizes, "weights": (0.4, 0.3, 0.3), **options})


def aligner(*parts, encoder=None, **options):
    """An aligner of some parts, all four by default."""
    sizes = {name: size for name, size in SIZES.items() if name.removeprefix("n_") in (parts or PARTS)}
    return SpotNicheAligner(small(**options), spot_image_encoder=encoder, **sizes)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    parts = {name: torch.randn(7, SIZES[f"n_{name}"], generator=generator) for name in PARTS}
    return AlignmentBatch(**parts, slide=torch.tensor([3, 0, 3, 0, 0, 3, 5]))


def only(batch, *parts):
    return batch._replace(**{name: None for name in PARTS if name not in parts})


def one_way(queries, keys, slide, temperature):
    """Eq. 11 over the rows of the same slide, one after the other."""
    total = 0.0
    for i in range(len(queries)):
        others = [j for j in range(len(keys)) if slide is None or slide[i] == slide[j]]
        scores = [(queries[i] @ keys[j] / (queries[i].norm() * keys[j].norm())).item() / temperature for j in others]
        total -= scores[others.index(i)] - math.log(sum(math.exp(score) for score in scores))
    return total / len(queries)


def both_ways(first, second, slide, temperature):
    return (one_way(first, second, slide, temperature) + one_way(second, first, slide, temperature)) / 2


@pytest.mark.parametrize("options", [{}, {"fusion": False}, {"adaptive": False}, {"weights": (1, 2, 5)}])
@pytest.mark.parametrize("slides", [True, False])
def test_losses_are_those_of_the_vectors(randomise, batch, options, slides):
    module = randomise(aligner(temperature=0.3, **options))
    module.temperature.log_value.fill_(math.log(0.3))
    if not slides:
        batch = batch._replace(slide=None)
    losses, vectors = module.loss(batch), module(batch)
    spot = both_ways(vectors.spot.image, vectors.spot.gene, batch.slide, 0.3)
    niche = both_ways(vectors.niche.image, vectors.niche.gene, batch.slide, 0.3)
    cross = one_way(vectors.spot.fused, vectors.niche.fused, batch.slide, 0.3)
    weights = options.get("weights", (0.4, 0.3, 0.3))
    assert losses["spot_loss"].item() == pytest.approx(spot, rel=1e-4)
    assert losses["niche_loss"].item() == pytest.approx(niche, rel=1e-4)
    assert losses["cross_loss"].item() == pytest.approx(cross, rel=1e-4)
    expected = sum(w * loss for w, loss in zip(weights, (spot, niche, cross), strict=True)) / sum(weights)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_vectors_are_those_of_the_parts(randomise, batch):
    module = randomise(aligner())
    vectors = module(batch)
    for level, image, genes in (("spot", 0, 2), ("niche", 1, 3)):
        part, found = getattr(module, level), getattr(vectors, level)
        image_tokens = part.encoders["image"](batch[image])
        gene_tokens = part.encoders["gene"](batch[genes])
        assert image_tokens.shape == gene_tokens.shape == (7, 3, 8)
        for name, tokens in (("image", image_tokens), ("gene", gene_tokens)):
            vector = part.heads[name](sum(tokens[:, t] for t in range(3)) / 3)
            torch.testing.assert_close(getattr(found, name), vector)
        fused = part.fusion(image_tokens, gene_tokens)
        torch.testing.assert_close(found.fused, fused)
        assert found.fused.shape == (7, 10)
    plain = randomise(aligner(fusion=False))(batch).spot
    torch.testing.assert_close(plain.fused, torch.cat([plain.image, plain.gene], dim=1))


def test_encoders_are_those_of_the_configuration():
    module = aligner()
    assert isinstance(module.spot.encoders["image"], FeatureTokens)
    assert isinstance(module.niche.encoders["gene"], GeneTransformerEncoder)
    assert isinstance(module.spot.encoders["gene"], GeneMLPEncoder)
    assert isinstance(aligner(spot_genes="embedding").spot.encoders["gene"], FeatureTokens)
    plain = aligner(adaptive=False)
    n_values = 0
    for level in (plain.spot, plain.niche):
        n_values += sum(p.numel() for p in level.encoders.parameters())
    assert n_values == sum((size + 1) * 24 for size in SIZES.values())


@pytest.mark.parametrize("options", [{}, {"fusion": False}, {"adaptive": False}, {"learn_temperature": True}])
def test_gradients_reach_every_parameter(randomise, batch, options):
    module = randomise(aligner(**options))
    module.loss(batch)["loss"].backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not [name for name, p in module.named_parameters() if not p.grad.any()]


@pytest.mark.parametrize("term", ["spot_loss", "niche_loss", "cross_loss"])
def test_each_loss_trains_its_own_part(randomise, batch, term):
    module = randomise(aligner())
    module.loss(batch)[term].backward()
    trained = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    groups = {tuple(name.split(".")[:2]) for name in trained}
    level = term.removesuffix("_loss")
    if level == "cross":
        assert groups == set(product(("spot", "niche"), ("encoders", "fusion")))
    else:
        assert groups == {(level, "encoders"), (level, "heads")}


@pytest.mark.parametrize("present", [chosen for n in range(5) for chosen in combinations(PARTS, n)])
def test_missing_parts_drop_out(randomise, batch, present):
    spot = {name.split("_")[1] for name in present if name.startswith("spot")}
    niche = {name.split("_")[1] for name in present if name.startswith("niche")}
    expected = {f"{name}_loss" for name, has in (("spot", spot), ("niche", niche)) if len(has) == 2}
    expected |= {"cross_loss"} if spot & niche else set()
    if not expected:
        with pytest.raises(ValueError, match="Nothing to align"):
            SpotNicheAligner(small(), **{f"n_{name}": SIZES[f"n_{name}"] for name in present})
        with pytest.raises(ValueError, match="nothing to compare"):
            aligner().loss(only(batch, *present))
        return
    module, part = randomise(aligner(*present)), only(batch, *present)
    losses = module.loss(part)
    assert set(losses) == expected | {"loss"}
    weights = {"spot_loss": 0.4, "niche_loss": 0.3, "cross_loss": 0.3}
    total = sum(weights[name] for name in expected)
    assert losses["loss"].item() == pytest.approx(sum(weights[n] * losses[n].item() for n in expected) / total)
    losses["loss"].backward()
    # Distributed training stops at a parameter that should have a gradient and gets none.
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    # A module with all parts makes the same of such a batch.
    complete = randomise(aligner())
    complete.load_state_dict({**complete.state_dict(), **module.state_dict()})
    torch.testing.assert_close(complete.loss(part), losses)


def test_genes_only(randomise, batch):
    module, part = randomise(aligner("spot_genes", "niche_genes")), only(batch, "spot_genes", "niche_genes")
    vectors = module(part)
    assert vectors.spot.image is vectors.spot.fused is vectors.niche.image is vectors.niche.fused is None
    loss = one_way(vectors.spot.gene, vectors.niche.gene, batch.slide, module.temperature().item())
    assert module.loss(part)["loss"].item() == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(("level", "modality"), product(("spot", "niche"), ("image", "gene", "fused")))
def test_embed_needs_only_what_it_embeds(randomise, batch, level, modality):
    module = randomise(aligner())
    names = [f"{level}_image", f"{level}_genes"]
    needed = {"image": names[:1], "gene": names[1:], "fused": names}[modality]
    vectors = module.embed(only(batch, *needed), level, modality)
    torch.testing.assert_close(vectors, getattr(getattr(module(batch), level), modality))
    # A spot's vector does not depend on what it is embedded with.
    alone = AlignmentBatch(*(None if value is None else value[2:3] for value in batch))
    torch.testing.assert_close(module.embed(alone, level, modality), vectors[2:3], rtol=1e-4, atol=1e-5)
    for name in needed:
        with pytest.raises(ValueError, match=f"no {level} {'image' if 'image' in name else 'gene'}"):
            module.embed(batch._replace(**{name: None}), level, modality)


class PixelMeans(nn.Module):
    """Features of pixels: mean of each colour, mixed."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, SIZES["n_spot_image"])

    def forward(self, pixels):
        return self.mix(pixels.float().mean(dim=(1, 2)) / 255)


def test_pixels_are_encoded_by_the_encoder_which_learns(randomise, batch):
    module = randomise(aligner(encoder=PixelMeans()))
    pixels = torch.randint(256, (7, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    of_pixels = batch._replace(spot_image=pixels)
    features = torch.stack(
        [module.spot_image_encoder.mix(p.reshape(-1, 3).double().mean(0).float() / 255) for p in pixels]
    )
    vectors = module.embed(of_pixels, "spot", "image")
    module.spot_image_encoder, encoder = None, module.spot_image_encoder
    torch.testing.assert_close(module.embed(batch._replace(spot_image=features), "spot", "image"), vectors)
    with pytest.raises(TypeError, match="`spot_image_encoder`"):
        module.loss(of_pixels)
    module.spot_image_encoder = encoder
    module.loss(of_pixels)["loss"].backward()
    assert encoder.mix.weight.grad.any()


def test_batch_of_one_and_of_lone_spots(randomise, batch):
    module = randomise(aligner()).train()
    one = AlignmentBatch(*(value[:1] for value in batch))
    assert module.loss(one)["loss"] == 0
    losses = module.loss(batch._replace(slide=torch.arange(7)))
    assert losses["loss"] == 0
    losses["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_same_seed_same_loss_and_gradients(batch):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        module = aligner()
        loss = module.loss(batch)["loss"]
        loss.backward()
        results.append([loss, *(p.grad for p in module.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))
    module.eval()
    assert torch.equal(module.loss(batch)["loss"], module.loss(batch)["loss"])


def test_a_start_goes_to_the_encoder_that_is_named():
    for level, modality, n_inputs in (
        ("spot", "image", SIZES["n_spot_image"]),
        ("niche", "gene", SIZES["n_niche_genes"]),
    ):
        module = SpotNicheAligner(small(), **SIZES)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        module.start_from(level, modality, torch.randn(n_inputs, 4), torch.full((4,), 2.0))
        changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
        encoder = {f"{level}.encoders.{modality}.projection.{part}" for part in ("weight", "bias")}
        fusion = {f"{level}.fusion.{part}.weight" for part in ("projection", "image_output", "gene_output")}
        assert changed == {*encoder, *fusion, f"{level}.heads.{modality}.weight"}


def test_start_from_shared_components_finds_image_and_genes_of_both_levels_together():
    torch.manual_seed(0)
    sizes = {"n_spot_image": 50, "n_spot_genes": 40, "n_niche_genes": 40}
    module = SpotNicheAligner(small(dim=32), **sizes).eval()
    components = torch.randn(60, 32) * torch.linspace(3, 0.5, 32)
    maps = {"gene": torch.linalg.qr(torch.randn(40, 32))[0], "image": torch.linalg.qr(torch.randn(50, 32))[0]}
    genes, image = components @ maps["gene"].T, components @ maps["image"].T
    batch = AlignmentBatch(spot_image=image, spot_genes=genes, niche_genes=genes)
    scale = torch.linspace(0.5, 2, 32)
    module.start_from("spot", "gene", maps["gene"], scale)
    module.start_from("niche", "gene", maps["gene"], scale)
    module.start_from("spot", "image", maps["image"], scale)
    spot = module.embed(batch, "spot", "gene")
    for other in (module.embed(batch, "niche", "gene"), module.embed(batch, "spot", "image"), components * scale):
        assert functional.cosine_similarity(spot, other).min() > 0.95
    # Fused vectors start as the image's components beside the genes', not rescaled; here there is room for few of them.
    fused = module.embed(batch, "spot", "fused")
    half = fused.shape[1] // 2
    for part in fused.split(half, dim=1):
        assert functional.cosine_similarity(part, components[:, :half]).min() > 0.95


def test_configuration_survives_json():
    config = small(learn_temperature=True, weights=(0.5, 0.2, 0.3))
    loaded = AlignerConfig(**json.loads(json.dumps(asdict(config))))
    first, second = SpotNicheAligner(config, **SIZES), SpotNicheAligner(loaded, **SIZES)
    second.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": (0, 0, 0)}, "`weights`"),
        ({"weights": (-1, 1, 1)}, "`weights`"),
        ({"weights": (1, 1)}, "`weights`"),
        ({"spot_genes": "counts"}, "`spot_genes`"),
        ({"n_heads": 3}, "`n_heads`=3"),
        ({"n_fused": 9}, "`n_fused` must be even"),
        ({"temperature": 3.0}, "between 0.01 and 1"),
    ],
)
def test_bad_configuration(options, match):
    with pytest.raises(ValueError, match=match):
        aligner(**options)


def test_bad_requests(batch):
    with pytest.raises(ValueError, match="`spot_image_encoder` needs `n_spot_image`"):
        aligner("spot_genes", "niche_genes", encoder=PixelMeans())
    module = aligner("spot_genes", "niche_genes")
    with pytest.raises(ValueError, match="built without: pass `n_spot_image`"):
        module.loss(batch)
    for level, modality in (("cell", "image"), ("spot", "genes")):
        with pytest.raises(ValueError, match="`level` must be"):
            module.embed(batch, level, modality)
    with pytest.raises(ValueError, match=r"losses are \['cross_loss', 'spot_loss'\], with `weights`=\(0, 1, 0\)"):
        aligner("spot_image", "spot_genes", "niche_genes", weights=(0, 1, 0)).loss(batch._replace(niche_image=None))


@pytest.mark.parametrize("parts", [("spot_genes", "niche_genes"), ("spot_image", "spot_genes")])
@pytest.mark.parametrize("weights", [(0, 1, 0), AlignerConfig().weights])
def test_a_single_loss_is_trained_on_whatever_its_weight(randomise, batch, parts, weights):
    part = only(batch, *parts)
    losses = randomise(aligner(*parts, weights=weights)).loss(part)
    expected = randomise(aligner(*parts, weights=(1, 1, 1), fusion=False)).loss(part)
    assert len(losses) == 2
    assert losses["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-6)


def test_no_attention_that_no_loss_trains(randomise, batch):
    module = randomise(aligner(weights=(0.4, 0.3, 0)))
    assert not [name for name, _ in module.named_parameters() if "fusion" in name]
    spot = module(batch).spot
    torch.testing.assert_close(spot.fused, torch.cat([spot.image, spot.gene], dim=1))


def test_size_of_a_batch(batch):
    assert batch.n_spots == only(batch, "niche_genes")._replace(slide=None).n_spots == 7
    assert AlignmentBatch().n_spots == 0
