import pytest
import torch

from stimage.modules import SymmetricCrossAttention

DIM, N_TOKENS = 6, 3


@pytest.fixture
def tokens():
    return torch.randn(2, 4, N_TOKENS, DIM, generator=torch.Generator().manual_seed(1)).unbind()


def attend_sample(f, other, weights, n_heads):
    """Eq. 7 of one sample: what the tokens f gather from the other modality, head after head."""
    width, parts = DIM // n_heads, []
    for head in range(n_heads):
        query, key, value = (weight[head * width : (head + 1) * width] for weight in weights)
        rows = []
        for i in range(len(f)):
            scores = torch.stack([((query @ f[i]) * (key @ token)).sum() / width**0.5 for token in other])
            share = scores.exp() / scores.exp().sum()
            rows.append(sum(share[j] * (value @ other[j]) for j in range(len(other))))
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_fusion_is_that_of_the_equations(randomise, tokens, n_heads):
    module = randomise(SymmetricCrossAttention(DIM, 10, N_TOKENS, n_heads))
    weights = module.projection.weight.chunk(3)
    fused, (z_image, z_gene) = module(*tokens), module.attend(*tokens)
    for n in range(4):
        image, gene = tokens[0][n], tokens[1][n]
        expected = attend_sample(image, gene, weights, n_heads), attend_sample(gene, image, weights, n_heads)
        torch.testing.assert_close(z_image[n], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(z_gene[n], expected[1], rtol=1e-4, atol=1e-5)
        h = torch.cat(
            [module.image_output.weight @ expected[0].ravel(), module.gene_output.weight @ expected[1].ravel()]
        )
        torch.testing.assert_close(fused[n], h, rtol=1e-4, atol=1e-5)


def test_roles_swap(randomise, tokens):
    module = randomise(SymmetricCrossAttention(DIM, 10, N_TOKENS))
    image, gene = tokens
    for first, second in zip(module.attend(image, gene), reversed(module.attend(gene, image)), strict=True):
        torch.testing.assert_close(first, second)


def test_one_token_attends_to_all_there_is(randomise, tokens):
    module = randomise(SymmetricCrossAttention(DIM, 10, 1))
    image, gene = (part[:, :1] for part in tokens)
    z_image, z_gene = module.attend(image, gene)
    value = module.projection.weight[2 * DIM :]
    torch.testing.assert_close(z_image, gene @ value.T)
    torch.testing.assert_close(z_gene, image @ value.T)


def test_order_of_the_other_tokens_does_not_matter(randomise, tokens):
    module = randomise(SymmetricCrossAttention(DIM, 10, N_TOKENS))
    image, gene = tokens
    order = [2, 0, 1]
    z_image, z_gene = module.attend(image, gene)
    other_image, other_gene = module.attend(image, gene[:, order])
    torch.testing.assert_close(other_image, z_image)
    torch.testing.assert_close(other_gene, z_gene[:, order])


def test_gradients_reach_every_parameter_and_both_inputs(tokens):
    module = SymmetricCrossAttention(DIM, 10, N_TOKENS)
    image, gene = (part.requires_grad_() for part in tokens)
    module(image, gene).square().sum().backward()
    assert all(part.grad.any() for part in (*module.parameters(), image, gene))


@pytest.mark.parametrize(("sizes", "match"), [((6, 10, 3, 4), "`n_heads`=4"), ((6, 9, 3), "`dim_out` must be even")])
def test_bad_sizes(sizes, match):
    with pytest.raises(ValueError, match=match):
        SymmetricCrossAttention(*sizes)


@pytest.mark.parametrize("dim_out", [10, 16, 24])
def test_start_from_concatenation_is_the_mean_tokens_side_by_side(dim_out):
    torch.manual_seed(0)
    fusion = SymmetricCrossAttention(dim=8, dim_out=dim_out, n_tokens=3)
    fusion.start_from_concatenation()
    image, gene = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    fused, half = fusion(image, gene), dim_out // 2
    kept = min(half, 8)
    # z^I gathers from the genes, z^G from the image.
    torch.testing.assert_close(fused[:, :kept], gene.mean(dim=1)[:, :kept])
    torch.testing.assert_close(fused[:, half : half + kept], image.mean(dim=1)[:, :kept])
    assert not fused[:, kept:half].any() and not fused[:, half + kept :].any()
