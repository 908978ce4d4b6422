import numpy as np
import pytest
import torch

from stimage.modules import AlignerConfig, AlignmentBatch, SpotNicheAligner, jitter_stain


@pytest.fixture
def pixels():
    return torch.randint(256, (4, 5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_optical_density_of_a_colour_is_multiplied_by_one_factor_for_each_patch(pixels):
    torch.manual_seed(0)
    jittered = jitter_stain(pixels, 0.3).numpy().astype(float)
    for patch, stained in zip(pixels.numpy().astype(float), jittered, strict=True):
        for colour in range(3):
            before, after = (-np.log((values[..., colour] + 1) / 256) for values in (patch, stained))
            # Colours are whole numbers: only where density is neither near 0 nor so high that a step is large.
            clear = (stained[..., colour] > 20) & (patch[..., colour] < 200)
            factors = after[clear] / before[clear]
            assert 0.65 < factors.min() and factors.max() < 1.35
            assert np.ptp(factors) < 0.05


def test_patches_and_colours_differ_and_the_seed_decides(pixels):
    torch.manual_seed(1)
    first = jitter_stain(pixels, 0.3)
    second = jitter_stain(pixels, 0.3)
    torch.manual_seed(1)
    assert torch.equal(first, jitter_stain(pixels, 0.3))
    assert not torch.equal(first, second)
    same = jitter_stain(torch.full((3, 2, 2, 3), 128, dtype=torch.uint8), 0.5)
    assert len(np.unique(same.numpy())) > 3


def test_no_strength_changes_nothing(pixels):
    assert torch.equal(jitter_stain(pixels, 0.0), pixels)


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_strength_is_checked(pixels, strength):
    with pytest.raises(ValueError, match="`strength` must be between 0 and 1"):
        jitter_stain(pixels, strength)


def test_aligner_stains_pixels_in_training_only(pixels):
    class Mean(torch.nn.Module):
        def forward(self, values):
            return values.float().mean(dim=(1, 2))

    config = AlignerConfig(dim=8, n_tokens=2, n_fused=8, n_layers=1, n_heads=2, dropout=0.0, stain_jitter=0.5)
    sizes = {"n_spot_image": 3, "n_spot_genes": 6, "spot_image_encoder": Mean()}
    module = SpotNicheAligner(config, **sizes)
    batch = AlignmentBatch(spot_image=pixels, spot_genes=torch.randn(4, 6))
    assert not torch.equal(module.embed(batch, "spot", "image"), module.embed(batch, "spot", "image"))
    module.eval()
    assert torch.equal(module.embed(batch, "spot", "image"), module.embed(batch, "spot", "image"))
