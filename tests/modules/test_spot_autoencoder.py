"""Each unit against its equation, written out spot by spot."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from stimage.modules import (
    AutoencoderConfig,
    MaskedAutoencoder,
    NeighborhoodAutoencoder,
    SliceAutoencoder,
    SpotAutoencoder,
)

N_GENES, DIM, N_NEIGHBORS = 10, 12, 3
UNITS = ["spot", "learned", "fixed", "slice"]


@pytest.fixture(params=[0, 1], ids=["one stack", "encoder and decoder"])
def config(request):
    return AutoencoderConfig(
        dim=DIM, n_layers=2, n_heads=3, dim_feedforward=16, decoder_layers=request.param, decoder_feedforward=20
    )


@pytest.fixture(params=UNITS)
def module(request, config, randomise):
    if request.param == "spot":
        return randomise(SpotAutoencoder(N_GENES, config))
    if request.param == "slice":
        return randomise(SliceAutoencoder(N_GENES, config))
    return randomise(NeighborhoodAutoencoder(N_GENES, config, n_neighbors=N_NEIGHBORS, neighbor_weights=request.param))


@pytest.fixture
def batch(module):
    generator = torch.Generator().manual_seed(0)
    n_sites = 8
    observed = torch.rand(3, n_sites, generator=generator) < 0.7
    observed[:, 0] = True
    group = torch.randint(3, (3, n_sites), generator=generator)
    is_scored = torch.ones(n_sites, dtype=torch.bool)
    if isinstance(module, NeighborhoodAutoencoder):
        group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).expand(3, -1)
        is_scored = torch.arange(n_sites) % 4 == 0
        observed[1, 1:4] = False  # a centre without neighbours
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1, 4:] = False
    genes = torch.stack([torch.randperm(N_GENES, generator=generator)[:6] for _ in range(3)])
    genes[~valid] = 0
    expression = torch.randn(3, n_sites, 6, generator=generator) * observed.unsqueeze(-1) * valid.unsqueeze(1)
    hidden = torch.rand(expression.shape, generator=generator) < 0.5
    hidden &= observed.unsqueeze(-1) & valid.unsqueeze(1) & is_scored[:, None]
    hidden[0, 0] = False  # a spot of which nothing happens to be hidden
    return {
        "expression": expression,
        "genes": genes,
        "gene_valid": valid,
        "observed": observed,
        "hidden": hidden,
        "group": group,
    }


def block_alone(block, spot):
    """A transformer block on a sequence of one: attention gives back the value."""
    normed = block.attention_norm(spot)
    value = block.attention.projection(normed)[2 * DIM :]
    spot = spot + block.attention.output(value)
    return spot + block.feedforward(block.feedforward_norm(spot))


def h_by_hand(module, batch, b, site):
    token = torch.zeros(DIM)
    for k, gene in enumerate(batch["genes"][b]):
        value = module.mask_token if batch["hidden"][b, site, k] else batch["expression"][b, site, k]
        token = token + value * module.genes.embedding[gene]
    spot = module.genes.norm(token)
    for block in module.encoder.blocks:
        spot = block_alone(block, spot)
    return spot


def vector_by_hand(module, batch, b, site):
    """h̃ of one spot (Eqs. 2 to 4)."""
    h, observed = h_by_hand(module, batch, b, site), batch["observed"][b]
    members = [other for other in range(8) if batch["group"][b, other] == batch["group"][b, site] and observed[other]]
    vectors = {other: h_by_hand(module, batch, b, other) for other in members}
    context = torch.zeros(DIM)
    if isinstance(module, SliceAutoencoder):
        context = sum(vectors.values()) / len(vectors)
    elif isinstance(module, NeighborhoodAutoencoder) and len(members) > 1:
        del vectors[site]
        weight = torch.ones(len(vectors))
        if module.attention is not None:
            query, key = module.attention.weight[:DIM] @ h, module.attention.weight[DIM:]
            weight = torch.stack([(query @ (key @ vector) / DIM**0.5).exp() for vector in vectors.values()])
        context = sum(w * vector for w, vector in zip(weight / weight.sum(), vectors.values(), strict=True))
    if type(module) is not SpotAutoencoder:
        h = h + module.fusion.feedforward(module.fusion.norm(torch.cat([h, context])))
    for block in module.decoder.blocks:
        h = block_alone(block, h)
    return module.norm(h)


def scored_sites(module, batch):
    step = 1 + N_NEIGHBORS if isinstance(module, NeighborhoodAutoencoder) else 1
    return [(b, site) for b in range(3) for site in range(0, 8, step) if batch["observed"][b, site]]


def test_vectors(module, batch):
    tokens = module.genes.with_hidden(batch["expression"], batch["genes"], batch["hidden"], module.mask_token)
    vectors = module(tokens, batch["observed"], batch["group"])
    step = 1 + N_NEIGHBORS if isinstance(module, NeighborhoodAutoencoder) else 1
    for b, site in scored_sites(module, batch):
        torch.testing.assert_close(
            vectors[b, site // step], vector_by_hand(module, batch, b, site), rtol=1e-3, atol=1e-4
        )


def test_loss(module, batch):
    per_spot = []
    for b, site in scored_sites(module, batch):
        vector = module.genes.output_projection(vector_by_hand(module, batch, b, site))
        errors = []
        for k, gene in enumerate(batch["genes"][b]):
            if batch["hidden"][b, site, k]:
                predicted = vector @ module.genes.output_embedding[gene] + module.genes.output_bias[gene]
                errors.append((batch["expression"][b, site, k] - predicted) ** 2)
        if errors:
            per_spot.append(sum(errors) / len(errors))
    torch.testing.assert_close(module.loss(batch), sum(per_spot) / len(per_spot), rtol=1e-3, atol=1e-4)


def test_loss_of_nothing_hidden_is_zero(module, batch):
    assert module.loss({**batch, "hidden": torch.zeros_like(batch["hidden"])}) == 0


def test_hidden_values_are_not_read(module, batch):
    expression = batch["expression"].clone().requires_grad_()
    tokens = module.genes(expression.masked_fill(batch["hidden"], 0), batch["genes"])
    vectors = module(tokens, batch["observed"], batch["group"])
    vectors.square().sum().backward()
    assert torch.isfinite(expression.grad).all()
    assert expression.grad[batch["hidden"]].abs().sum() == 0


def test_gradients_reach_every_parameter(module, batch):
    module.loss(batch).backward()
    for name, parameter in module.named_parameters():
        if name.endswith("log_sharpness"):
            assert not parameter.requires_grad
        else:
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any(), name


def test_starts_as_the_spot_alone(config):
    """Before training, context adds nothing: the spectral start holds for every unit."""
    tokens, observed = torch.randn(1, 8, DIM), torch.ones(1, 8, dtype=torch.bool)
    alone = functional.layer_norm(tokens, (DIM,))
    group = torch.zeros(1, 8, dtype=torch.long)
    torch.testing.assert_close(SpotAutoencoder(N_GENES, config)(tokens, observed, group), alone)
    torch.testing.assert_close(SliceAutoencoder(N_GENES, config)(tokens, observed, group), alone)
    neighborhood = NeighborhoodAutoencoder(N_GENES, config, n_neighbors=3, neighbor_weights="learned")
    torch.testing.assert_close(neighborhood(tokens, observed, group), alone[:, ::4])


def test_transformer_has_the_parameters_of_the_window_model(module, config):
    def shapes(module):
        return {
            name: tuple(parameter.shape)
            for name, parameter in module.state_dict().items()
            if name.split(".")[0] in ("genes", "encoder", "decoder", "norm")
        }

    assert shapes(module) == shapes(MaskedAutoencoder(N_GENES, config))
    extra = sum(p.numel() for p in module.parameters()) - sum(np.prod(s) for s in shapes(module).values())
    assert extra >= 0
