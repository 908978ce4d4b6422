import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from stimage.data import WindowSpec, site_limits
from stimage.modules import AutoencoderConfig, LocalAttention, MaskedAutoencoder, SiteTransformer

DIM, N_HEADS, N_GENES = 32, 4, 40


def hexagonal(window):
    row, column = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    positions = torch.stack([column + 0.5 * (row % 2), row * 3**0.5 / 2], dim=-1)
    return positions - positions.mean(dim=0)


def sample(window, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sites = torch.randn(1, window**2, DIM, generator=generator)
    visible = torch.rand(1, window**2, generator=generator) < 0.5
    return sites, hexagonal(window).unsqueeze(0), visible


def some_attention():
    torch.manual_seed(0)
    attention = LocalAttention(DIM, N_HEADS, dropout=0.0)
    with torch.no_grad():
        attention.log_sharpness[0] += 1.0  # narrower than at the start, as learned heads are
    return attention


def in_double_precision(attention, sites, positions, visible):
    """The definition, all scores at once."""
    attention = attention.double()
    query, key, value = attention.projection(sites.double()).unflatten(-1, (3, N_HEADS, -1)).permute(2, 0, 3, 1, 4)
    square = torch.cdist(positions.double(), positions.double()).square().unsqueeze(1)
    score = query @ key.mT / query.shape[-1] ** 0.5 - attention.log_sharpness.exp().view(-1, 1, 1) * square
    weight = score.masked_fill(~visible[:, None, None, :], -torch.inf).softmax(dim=-1)
    return attention.output((weight @ value).transpose(1, 2).flatten(2))


def error(found, expected):
    return float(((found.double() - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("window", [16, 32, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.0015), (None, 2e-5)])
def test_attention_at_any_precision_and_distance(window, dtype, tolerance):
    parts = sample(window)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        found = some_attention()(*parts)
    expected = in_double_precision(some_attention(), *parts)
    assert error(found, expected) < tolerance
    # The corner is where positions are largest.
    assert error(found[:, :5], expected[:, :5]) < 1.5 * tolerance


def gradient_of_sharpness(attend, attention, *, half=False):
    """Of the distance to what wider heads gather."""
    wider = some_attention()
    with torch.no_grad():
        wider.log_sharpness -= 0.5
        target = in_double_precision(wider, *sample(16))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        attended = attend(*sample(16))
    (attended - target).square().sum().backward()
    return attention.log_sharpness.grad.double()


def test_gradient_of_sharpness():
    exact, single, half = some_attention(), some_attention(), some_attention()
    expected = gradient_of_sharpness(lambda *parts: in_double_precision(exact, *parts), exact)
    assert (expected > 0).all()
    for found, tolerance in (
        (gradient_of_sharpness(single, single), 1e-3),
        (gradient_of_sharpness(half, half, half=True), 0.1),
    ):
        assert ((found / expected - 1).abs() < tolerance).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_needs_no_kernel_but_the_fused_one(dtype):
    parts = sample(16)
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype.itemsize == 2),
    ):
        some_attention()(*parts).sum().backward()


@pytest.fixture(params=[0, 1], ids=["one stack", "encoder and decoder"])
def module(request, randomise):
    config = AutoencoderConfig(
        dim=DIM, n_layers=2, n_heads=N_HEADS, dim_feedforward=48, decoder_layers=request.param, decoder_feedforward=40
    )
    return randomise(MaskedAutoencoder(N_GENES, config))


def batch_of(window=8, n_windows=3, n_genes=20):
    generator = torch.Generator().manual_seed(0)
    n_sites = window**2
    observed = torch.rand(n_windows, n_sites, generator=generator) < 0.9
    key = torch.rand(n_windows, n_sites, generator=generator).masked_fill(~observed, 2)
    n_hidden = (0.75 * observed.sum(dim=1, keepdim=True)).round().long()
    hidden = key.argsort(dim=1).argsort(dim=1) < n_hidden
    genes = torch.stack([torch.randperm(N_GENES, generator=generator)[:n_genes] for _ in range(n_windows)])
    expression = torch.randn(n_windows, n_sites, n_genes, generator=generator) * observed.unsqueeze(-1)
    return {
        "expression": expression,
        "genes": genes,
        "gene_valid": torch.ones_like(genes, dtype=torch.bool),
        "observed": observed,
        "hidden": hidden,
        "positions": hexagonal(window).expand(n_windows, -1, -1),
    }


def loss_and_gradients(module, batch):
    module.zero_grad()
    loss = module.loss(batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_loss_under_autocast(module):
    expected, gradients = loss_and_gradients(module, batch_of())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, rounded = loss_and_gradients(module, batch_of())
    assert loss.dtype == torch.float32
    assert abs(loss / expected - 1) < 0.01
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert error(torch.cat([gradient.flatten() for gradient in rounded.values()]), whole.double()) < 0.05
    assert all(torch.isfinite(gradient).all() for gradient in rounded.values())


def test_site_vectors_stay_in_single_precision(module):
    batch = batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = module.genes(batch["expression"], batch["genes"])
        vectors = module(tokens, batch["positions"], batch["observed"], batch["hidden"])
    assert tokens.dtype == vectors.dtype == torch.float32


def test_known_limits_change_nothing(module):
    expected, gradients = loss_and_gradients(module, batch_of())
    module.site_limits = site_limits(WindowSpec(window=8, mask_ratio=0.75))
    assert module.site_limits[1] > int(batch_of()["hidden"].sum(dim=1).max())
    loss, others = loss_and_gradients(module, batch_of())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-6)


def kept_bytes(module, batch):
    """What the forward pass keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module.loss(batch)
    return sum(kept.values())


def test_checkpointing_saves_memory_and_changes_nothing(module):
    batch = batch_of()
    expected, gradients = loss_and_gradients(module, batch)
    needed = kept_bytes(module, batch)
    module.encoder.checkpointing = module.decoder.checkpointing = True
    loss, others = loss_and_gradients(module, batch)
    assert torch.equal(loss, expected)
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())
    assert kept_bytes(module, batch) < 0.7 * needed


def test_checkpointing_is_off_at_first_and_for_inference():
    transformer = SiteTransformer(DIM, 1, N_HEADS, 48)
    assert not transformer.checkpointing
    transformer.checkpointing = True
    with torch.inference_mode():
        assert transformer(*sample(4)).shape == (1, 16, DIM)
