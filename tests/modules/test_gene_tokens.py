import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from slides import random_slide

from stimage.data import principal_genes
from stimage.modules import GeneTokens


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    genes = torch.stack([torch.randperm(10, generator=generator)[:6] for _ in range(2)])
    return torch.randn(2, 5, 6, generator=generator), genes


def test_tokens_and_predictions_are_sums_over_genes(randomise, sample):
    expression, genes = sample
    module = randomise(GeneTokens(10, 8))
    tokens = module(expression, genes)
    predicted = module.decode(tokens, genes)
    weight, bias = module.output_projection.weight, module.output_projection.bias
    for b in range(2):
        for site in range(5):
            total = sum(expression[b, site, k] * module.embedding[genes[b, k]] for k in range(6))
            expected = (total - total.mean()) / (total.var(unbiased=False) + 1e-5).sqrt()
            expected = expected * module.norm.weight + module.norm.bias
            torch.testing.assert_close(tokens[b, site], expected, rtol=1e-4, atol=1e-5)
            latent = weight @ tokens[b, site] + bias
            for k, gene in enumerate(genes[b]):
                value = latent @ module.output_embedding[gene] + module.output_bias[gene]
                torch.testing.assert_close(predicted[b, site, k], value, rtol=1e-4, atol=1e-5)


def test_order_of_genes_does_not_matter(randomise, sample):
    expression, genes = sample
    module = randomise(GeneTokens(10, 8))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    tokens = module(expression, genes)
    torch.testing.assert_close(module(expression[..., order], genes[:, order]), tokens)
    torch.testing.assert_close(
        module.decode(tokens, genes[:, order]), module.decode(tokens, genes)[..., order], rtol=1e-4, atol=1e-5
    )


def test_genes_at_zero_do_not_count(randomise, sample):
    expression, genes = sample
    module = randomise(GeneTokens(10, 8))
    padded = torch.cat([expression, torch.zeros(2, 5, 3)], dim=-1)
    torch.testing.assert_close(module(padded, torch.nn.functional.pad(genes, (0, 3))), module(expression, genes))


def test_all_genes_at_once(randomise, sample):
    expression, genes = sample
    module = randomise(GeneTokens(10, 8))
    tokens = module(expression, genes)
    everything = module.decode_all(tokens)
    assert everything.shape == (2, 5, 10)
    index = genes.unsqueeze(1).expand(-1, 5, -1)
    torch.testing.assert_close(everything.gather(2, index), module.decode(tokens, genes))
    full = torch.zeros(2, 5, 10).scatter(2, index, expression)
    torch.testing.assert_close(module.normalise(full @ module.embedding), tokens, rtol=1e-4, atol=1e-5)


def test_spectral_start_is_a_principal_component_analysis():
    slide = random_slide(12, 12, n_genes=30, empty=0.0)
    axes, deviation = principal_genes([slide], 8)
    module = GeneTokens(30, 8)
    module.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
    expression = torch.from_numpy(slide.expression.toarray() - slide.gene_mean)

    scores = PCA(8, svd_solver="full").fit_transform(slide.expression.toarray().astype(np.float64))
    projected = (expression @ module.embedding).detach().numpy()
    agreement = np.einsum("sk,sk->k", projected, scores)
    agreement /= np.linalg.norm(projected, axis=0) * np.linalg.norm(scores, axis=0)
    np.testing.assert_allclose(np.abs(agreement), 1, atol=1e-4)
    np.testing.assert_allclose(projected.std(axis=0), deviation, rtol=1e-3)

    # The token is the site's standardised scores, and reading it out gives back expression along the axes.
    scores = scores * np.sign(agreement)
    tokens = module(expression.unsqueeze(0), torch.arange(30).unsqueeze(0))[0]
    spread = scores.std(axis=1, keepdims=True)
    expected = (scores - scores.mean(axis=1, keepdims=True)) / spread
    clear = spread[:, 0] > 0.1
    np.testing.assert_allclose(tokens.detach().numpy()[clear], expected[clear], atol=0.01)
    predicted = module.decode_all(tokens).detach().numpy()
    latent = predicted @ axes
    ratio = latent[clear] / expected[clear]
    np.testing.assert_allclose(ratio, np.sqrt((deviation**2).mean()), rtol=0.2)


def test_spectral_start_with_fewer_axes_than_dimensions():
    axes, deviation = principal_genes([random_slide(12, 12, n_genes=6)], 8)
    module = GeneTokens(6, 8)
    module.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
    np.testing.assert_array_equal(module.embedding[:, :5].detach(), axes)
    rest = module.embedding[:, 5:].detach()
    assert 0 < rest.norm(dim=0).max() < 0.5


def test_gradients_are_the_same_on_several_threads_every_time():
    generator = torch.Generator().manual_seed(0)
    genes = torch.stack([torch.randperm(2000, generator=generator)[:512] for _ in range(16)])
    expression = torch.randn(16, 8, 512, generator=generator)
    module = GeneTokens(2000, 32)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(8):
            module.zero_grad()
            module.decode(module(expression, genes), genes).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    finally:
        torch.set_num_threads(n_threads)
    for other in gradients[1:]:
        assert all(torch.equal(first, second) for first, second in zip(gradients[0], other, strict=True))
