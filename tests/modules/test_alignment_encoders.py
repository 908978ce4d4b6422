import math
from functools import partial

import numpy as np
import pytest
import torch

from stimage.modules import FeatureTokens, GeneMLPEncoder, GeneTransformerEncoder

N_GENES, DIM, N_TOKENS = 20, 8, 3


@pytest.fixture
def vectors():
    return torch.randn(4, N_GENES, generator=torch.Generator().manual_seed(0))


def normalised(token, norm):
    return (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias


def gelu(values):
    return 0.5 * values * (1 + torch.erf(values / math.sqrt(2)))


def projected(module, vector):
    weight, bias = module.projection.weight, module.projection.bias
    return [weight[t * DIM : (t + 1) * DIM] @ vector + bias[t * DIM : (t + 1) * DIM] for t in range(N_TOKENS)]


def attended(tokens, attention, n_heads):
    """Self-attention of one sample, head after head."""
    width, parts = DIM // n_heads, []
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    for head in range(n_heads):
        rows = slice(head * width, (head + 1) * width)
        query, key, value = ([w[rows] @ t + b[rows] for t in tokens] for w, b in zip(weights, biases, strict=True))
        scores = torch.stack([torch.stack([(q * k).sum() / width**0.5 for k in key]) for q in query])
        parts.append(scores.softmax(dim=1) @ torch.stack(value))
    return [attention.out_proj.weight @ row + attention.out_proj.bias for row in torch.cat(parts, dim=1)]


def test_transformer_is_that_of_the_textbook(randomise, vectors):
    module = randomise(GeneTransformerEncoder(N_GENES, DIM, N_TOKENS, n_layers=2, n_heads=2))
    tokens = module(vectors)
    assert tokens.shape == (4, N_TOKENS, DIM)
    for n in range(4):
        expected = projected(module, vectors[n])
        for block in module.blocks:
            gathered = attended([normalised(token, block.norm1) for token in expected], block.self_attn, n_heads=2)
            expected = [token + part for token, part in zip(expected, gathered, strict=True)]
            hidden = [gelu(block.linear1(normalised(token, block.norm2))) for token in expected]
            expected = [token + block.linear2(part) for token, part in zip(expected, hidden, strict=True)]
        expected = torch.stack(expected)
        torch.testing.assert_close(tokens[n], expected, rtol=1e-3, atol=1e-4)


def test_perceptron_of_tokens(randomise, vectors):
    module = randomise(GeneMLPEncoder(N_GENES, DIM, N_TOKENS))
    norm, first, _, last, _ = module.feedforward
    tokens = module(vectors)
    for n in range(4):
        for t, token in enumerate(projected(module, vectors[n])):
            moved = token + last.weight @ gelu(first.weight @ normalised(token, norm) + first.bias) + last.bias
            torch.testing.assert_close(tokens[n, t], moved, rtol=1e-3, atol=1e-4)


def test_perceptron_of_features(randomise, vectors):
    module = randomise(FeatureTokens(N_GENES, DIM, N_TOKENS))
    norm, first, _, _, last = module.perceptron
    tokens = module(vectors)
    assert tokens.shape == (4, N_TOKENS, DIM)
    for n in range(4):
        flat = last.weight @ gelu(first.weight @ normalised(vectors[n], norm) + first.bias) + last.bias
        for t, token in enumerate(projected(module, vectors[n])):
            expected = token + flat[t * DIM : (t + 1) * DIM]
            torch.testing.assert_close(tokens[n, t], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [FeatureTokens, GeneMLPEncoder])
def test_linear_variants_are_linear(randomise, vectors, kind):
    module = randomise(kind(N_GENES, DIM, N_TOKENS, linear=True))
    offset = module(torch.zeros(1, N_GENES))
    parts = [module(vectors[n : n + 1]) - offset for n in range(2)]
    torch.testing.assert_close(module(2 * vectors[:1] - vectors[1:2]) - offset, 2 * parts[0] - parts[1])
    assert sum(parameter.numel() for parameter in module.parameters()) == (N_GENES + 1) * N_TOKENS * DIM


@pytest.mark.parametrize(
    "kind", [FeatureTokens, GeneMLPEncoder, partial(GeneTransformerEncoder, n_layers=1, n_heads=2)]
)
def test_dropout_is_for_training_only(randomise, vectors, kind):
    module = randomise(kind(N_GENES, DIM, N_TOKENS, dropout=0.5))
    assert torch.equal(module(vectors), module(vectors))
    module.train()
    assert not torch.equal(module(vectors), module(vectors))


@pytest.mark.parametrize(
    "kind",
    [
        partial(GeneMLPEncoder, linear=True),
        GeneMLPEncoder,
        partial(GeneTransformerEncoder, n_layers=2, n_heads=2),
        partial(FeatureTokens, linear=True),
        FeatureTokens,
    ],
    ids=["linear", "perceptron", "transformer", "linear features", "features"],
)
@pytest.mark.parametrize("n_components", [5, 8, 12])
def test_start_is_the_map_that_was_given(kind, n_components):
    torch.manual_seed(0)
    module = kind(30, DIM, N_TOKENS).eval()
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 30)).astype(np.float32)
    weights = rng.normal(size=(30, n_components)).astype(np.float32)
    module.start_from(torch.from_numpy(weights))
    n_kept = min(n_components, DIM)
    expected = inputs @ weights[:, :n_kept]
    tokens = module.project(torch.from_numpy(inputs)).detach()
    for token in tokens.unbind(1):
        # A tenth of a random start is left, which tells tokens apart.
        difference = token[:, :n_kept].numpy() - expected
        assert 0 < np.sqrt((difference**2).mean()) < 0.1 * expected.std()
        assert (token[:, n_kept:].square().mean(dim=0) < 0.1).all()
    assert not torch.equal(tokens[:, 0], tokens[:, 1])
    # Nothing that follows changes the start.
    torch.testing.assert_close(module(torch.from_numpy(inputs)), tokens)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="`n_heads`=3 does not divide `dim`=8"):
        GeneTransformerEncoder(N_GENES, DIM, N_TOKENS, n_heads=3)
