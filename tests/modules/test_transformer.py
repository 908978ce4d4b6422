import math

import pytest
import torch

from stimage.modules import LocalAttention, SiteTransformer


def slow_attention(attention, sites, positions, visible):
    """softmax(q·k/√d − s |p_i − p_j|²) over the visible sites, written out."""
    batch, n_sites, dim = sites.shape
    size = dim // attention.n_heads
    query, key, value = (sites @ attention.projection.weight.T + attention.projection.bias).split(dim, dim=-1)
    joined = torch.zeros_like(sites)
    for b in range(batch):
        for head in range(attention.n_heads):
            part = slice(head * size, (head + 1) * size)
            sharpness = attention.log_sharpness[head].exp()
            for i in range(n_sites):
                score = torch.full((n_sites,), -math.inf)
                for j in range(n_sites):
                    if visible[b, j]:
                        distance = (positions[b, i] - positions[b, j]).square().sum()
                        score[j] = query[b, i, part] @ key[b, j, part] / math.sqrt(size) - sharpness * distance
                weight = score.softmax(dim=0)
                joined[b, i, part] = sum(weight[j] * value[b, j, part] for j in range(n_sites))
    return joined @ attention.output.weight.T + attention.output.bias


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(1)
    sites = torch.randn(2, 9, 12, generator=generator)
    positions = 3 * torch.randn(2, 9, 2, generator=generator)
    visible = torch.rand(2, 9, generator=generator) < 0.7
    visible[:, 0] = True
    return sites, positions, visible


@pytest.mark.parametrize("n_heads", [1, 3, 4])
def test_attention(randomise, sample, n_heads):
    attention = randomise(LocalAttention(12, n_heads, dropout=0.0))
    torch.testing.assert_close(attention(*sample), slow_attention(attention, *sample), rtol=1e-4, atol=1e-5)


def test_heads_start_with_widths_from_narrow_to_wide():
    attention = LocalAttention(16, 8, dropout=0.0)
    width = (0.5 / attention.log_sharpness.exp()).sqrt()
    assert (width.diff() > 0).all()
    torch.testing.assert_close(width[[0, -1]], torch.tensor(LocalAttention.widths))


def test_positions_are_relative(randomise, sample):
    sites, positions, visible = sample
    transformer = randomise(SiteTransformer(12, 2, 3, 24))
    expected = transformer(sites, positions, visible)
    torch.testing.assert_close(transformer(sites, positions + torch.tensor([5.0, -8.0]), visible), expected)
    angle = torch.tensor(0.7)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    torch.testing.assert_close(transformer(sites, positions @ turn, visible), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(transformer(sites, 1.5 * positions, visible), expected, atol=1e-2)


def test_order_of_sites_does_not_matter(randomise, sample):
    transformer = randomise(SiteTransformer(12, 2, 3, 24))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = transformer(*(part[:, order] for part in sample))
    torch.testing.assert_close(shuffled, transformer(*sample)[:, order], rtol=1e-4, atol=1e-5)


def test_sites_that_are_not_visible_are_not_looked_at(randomise, sample):
    sites, positions, visible = sample
    transformer = randomise(SiteTransformer(12, 2, 3, 24))
    changed = torch.where(visible.unsqueeze(-1), sites, sites + 100)
    moved = torch.where(visible.unsqueeze(-1), positions, positions - 3)
    torch.testing.assert_close(
        transformer(changed, moved, visible)[visible], transformer(sites, positions, visible)[visible]
    )


def test_windows_of_a_batch_do_not_mix(randomise, sample):
    transformer = randomise(SiteTransformer(12, 2, 3, 24))
    alone = torch.cat([transformer(*(part[i : i + 1] for part in sample)) for i in range(2)])
    torch.testing.assert_close(transformer(*sample), alone, rtol=1e-4, atol=1e-5)


def test_untrained_blocks_are_the_identity(sample):
    transformer = SiteTransformer(12, 3, 4, 24)
    torch.testing.assert_close(transformer(*sample), sample[0])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="`n_heads`=5 does not divide `dim`=12"):
        LocalAttention(12, 5, dropout=0.0)
