from dataclasses import replace

import numpy as np
import pytest
import torch

from stimage.modules import AutoencoderConfig, MaskedAutoencoder

N_GENES, N_SITES, DIM = 10, 9, 12


@pytest.fixture(params=[0, 1], ids=["one stack", "encoder and decoder"])
def module(request, randomise):
    config = AutoencoderConfig(
        dim=DIM, n_layers=2, n_heads=3, dim_feedforward=16, decoder_layers=request.param, decoder_feedforward=20
    )
    return randomise(MaskedAutoencoder(N_GENES, config))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    observed = torch.rand(3, N_SITES, generator=generator) < 0.8
    observed[:, :3] = True
    hidden = observed & (torch.rand(3, N_SITES, generator=generator) < 0.4)
    hidden[:, 0], hidden[:, 1] = True, False
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1, 4:] = False
    genes = torch.stack([torch.randperm(N_GENES, generator=generator)[:6] for _ in range(3)])
    genes[~valid] = 0
    expression = torch.randn(3, N_SITES, 6, generator=generator)
    expression = expression * observed.unsqueeze(-1) * valid.unsqueeze(1)
    return {
        "expression": expression,
        "genes": genes,
        "gene_valid": valid,
        "observed": observed,
        "hidden": hidden,
        "positions": 2 * torch.randn(3, N_SITES, 2, generator=generator),
    }


@pytest.fixture
def value_batch(batch):
    """The same windows with single values hidden instead of sites."""
    drawn = torch.rand(batch["expression"].shape, generator=torch.Generator().manual_seed(1)) < 0.4
    return {**batch, "hidden": drawn & batch["observed"].unsqueeze(-1) & batch["gene_valid"].unsqueeze(1)}


def sample(batch):
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(3, N_SITES, DIM, generator=generator)
    return tokens, batch["positions"], batch["observed"], batch["hidden"]


def test_hidden_sites_and_empty_sites_are_never_read(module, batch):
    tokens, positions, tissue, hidden = sample(batch)
    expected = module(tokens, positions, tissue, hidden)
    assert expected.shape == (3, N_SITES, DIM)
    other = torch.where((hidden | ~tissue).unsqueeze(-1), tokens + 50, tokens)
    moved = torch.where(tissue.unsqueeze(-1), positions, positions + 7)
    torch.testing.assert_close(module(other, moved, tissue, hidden)[tissue], expected[tissue])


def test_nothing_is_read_where_everything_is_hidden(module, batch):
    tokens, positions, tissue, _ = sample(batch)
    torch.testing.assert_close(
        module(tokens + 50, positions, tissue, tissue)[tissue], module(tokens, positions, tissue, tissue)[tissue]
    )


def test_visible_sites_are_read(module, batch):
    tokens, positions, tissue, hidden = sample(batch)
    positions *= 0.2  # every head reaches every site
    other = tokens.clone()
    other[:, 1] += torch.randn(DIM, generator=torch.Generator().manual_seed(3))
    change = (module(other, positions, tissue, hidden) - module(*sample(batch))).abs().amax(dim=-1)
    assert (change[tissue] > 1e-5).all()


def test_hidden_sites_with_the_same_surroundings_get_the_same_vector(module, batch):
    tokens, positions, tissue, hidden = sample(batch)
    hidden[:, 2] = True
    positions[:, 2] = positions[:, 0]
    sites = module(tokens, positions, tissue, hidden)
    torch.testing.assert_close(sites[:, 2], sites[:, 0])


def test_order_of_sites_does_not_matter(module, batch):
    order = torch.randperm(N_SITES, generator=torch.Generator().manual_seed(4))
    shuffled = module(*(part[:, order] for part in sample(batch)))
    torch.testing.assert_close(shuffled, module(*sample(batch))[:, order], rtol=1e-4, atol=1e-5)


def test_only_relative_positions_matter(module, batch):
    tokens, positions, tissue, hidden = sample(batch)
    torch.testing.assert_close(
        module(tokens, positions + 4, tissue, hidden), module(tokens, positions, tissue, hidden), rtol=1e-4, atol=1e-4
    )


def test_masked_sites_start_from_gaussian_means(batch):
    """With blocks that are the identity, as they are before training, a masked site is a kernel smoother's."""
    module = MaskedAutoencoder(N_GENES, AutoencoderConfig(dim=DIM, n_heads=3)).eval()
    tokens, positions, tissue, hidden = sample(batch)
    hidden = hidden & tissue
    found = module(tokens, positions, tissue, hidden)
    for b, site in hidden.nonzero().tolist():
        expected = torch.zeros(DIM)
        for width in (1.0, 2.2):
            shown = (tissue & ~hidden)[b].nonzero()[:, 0].tolist()
            weights = [
                float(torch.exp(-((positions[b, site] - positions[b, j]) ** 2).sum() / (2 * width**2))) for j in shown
            ]
            expected += sum(w * tokens[b, j] for w, j in zip(weights, shown, strict=True)) / sum(weights) / 2
        torch.testing.assert_close(found[b, site], module.norm(expected), rtol=1e-3, atol=1e-4)


def test_everything_hidden_is_finite(module, batch):
    tokens, positions, tissue, _ = sample(batch)
    assert torch.isfinite(module(tokens, positions, tissue, tissue)).all()


def check_losses(module, batch, predicted, scored):
    """Both losses against sums over the scored values, one by one."""
    errors, squares = {}, {}
    for b, site, k in scored:
        errors.setdefault(b, []).append((predicted[b, site, k] - batch["expression"][b, site, k]) ** 2)
        squares.setdefault(b, []).append(batch["expression"][b, site, k] ** 2)
    relative = sum(sum(errors[b]) / (sum(squares[b]) / len(squares[b])) for b in errors) / len(scored)
    torch.testing.assert_close(module.loss(batch), relative, rtol=1e-4, atol=1e-5)
    module.config = replace(module.config, relative_error=False)
    torch.testing.assert_close(module.loss(batch), sum(map(sum, errors.values())) / len(scored), rtol=1e-4, atol=1e-5)


def test_loss_over_hidden_sites(module, batch):
    tokens = module.genes(batch["expression"], batch["genes"])
    sites = module(tokens, batch["positions"], batch["observed"], batch["hidden"])
    predicted = module.genes.decode(sites, batch["genes"])
    scored = [
        (b, site, k)
        for b in range(3)
        for site in range(N_SITES)
        for k in range(6)
        if batch["hidden"][b, site] and batch["gene_valid"][b, k]
    ]
    check_losses(module, batch, predicted, scored)


def test_loss_over_hidden_values(module, value_batch):
    batch = value_batch
    tokens = torch.zeros(3, N_SITES, module.config.dim)
    for b, site, k in np.ndindex(*batch["expression"].shape):
        value = module.mask_token if batch["hidden"][b, site, k] else batch["expression"][b, site, k]
        tokens[b, site] += value * module.genes.embedding[batch["genes"][b, k]]
    nothing = torch.zeros(3, N_SITES, dtype=torch.bool)
    sites = module(module.genes.norm(tokens), batch["positions"], batch["observed"], nothing)
    predicted = module.genes.decode(sites, batch["genes"])
    check_losses(module, batch, predicted, batch["hidden"].nonzero().tolist())


def test_padding_changes_nothing(module, batch):
    loss = module.loss(batch)
    padded = {
        **batch,
        "expression": torch.nn.functional.pad(batch["expression"], (0, 2)),
        "genes": torch.nn.functional.pad(batch["genes"], (0, 2)),
        "gene_valid": torch.nn.functional.pad(batch["gene_valid"], (0, 2)),
    }
    torch.testing.assert_close(module.loss(padded), loss)


def test_loss_of_nothing_hidden_is_zero(module, value_batch):
    nothing = {**value_batch, "hidden": torch.zeros_like(value_batch["hidden"])}
    assert module.loss(nothing) == 0


def test_a_hidden_value_is_another_than_one_at_the_mean(module, value_batch):
    """Values that are hidden are told from values that are visible and happen to be at their gene's mean."""
    batch = {**value_batch, "expression": value_batch["expression"].clone()}
    batch["expression"][0, 2, :2] = 0
    batch["observed"][0, 2] = True
    at_mean, hidden = torch.zeros_like(batch["hidden"]), torch.zeros_like(batch["hidden"])
    hidden[0, 2, :2] = True
    one_other = torch.zeros_like(hidden)
    one_other[0, 2, 1:3] = True
    one_other_at_mean = {**batch, "expression": batch["expression"].masked_fill(one_other, 0)}
    tokens = [
        module.genes.with_hidden(part["expression"], part["genes"], mask, module.mask_token)[0, 2]
        for part, mask in (
            (batch, at_mean),
            (batch, hidden),
            (one_other_at_mean, hidden),
            (one_other_at_mean, one_other),
        )
    ]
    assert (tokens[0] - tokens[1]).abs().max() > 0.01
    # Which genes are hidden matters, not only how many.
    assert (tokens[2] - tokens[3]).abs().max() > 0.01
    everything_visible = module.genes(batch["expression"], batch["genes"])
    torch.testing.assert_close(
        module.genes.with_hidden(batch["expression"], batch["genes"], at_mean, module.mask_token), everything_visible
    )


@pytest.mark.parametrize("hide", ["sites", "values"])
def test_gradients_reach_every_parameter(module, batch, value_batch, hide):
    module.loss(batch if hide == "sites" else value_batch).backward()
    zero = {name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert not zero
    used = torch.zeros(N_GENES, dtype=torch.bool)
    used[batch["genes"][batch["gene_valid"]]] = True
    assert module.genes.output_embedding.grad[~used].abs().sum() == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_gradients_do_not_flow_from_hidden_values(module, batch):
    expression = batch["expression"].requires_grad_()
    tokens = module.genes(expression, batch["genes"])
    sites = module(tokens, batch["positions"], batch["observed"], batch["hidden"])
    sites[batch["observed"]].square().sum().backward()
    assert expression.grad[batch["hidden"]].abs().sum() == 0
    assert expression.grad[batch["observed"] & ~batch["hidden"]].abs().sum() > 0
