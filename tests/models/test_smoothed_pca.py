import subprocess
import sys

import anndata
import numpy as np
import pytest
import torch
from checkpoints import edit_weights
from helpers import assert_unchanged
from scipy import sparse
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

import stimage as sti
from stimage.data import site_positions
from stimage.models.embedding._axes import own_axes
from stimage.models.embedding._codes import NicheCodes


def slides(n_slides=2, n_rows=18, n_cols=16, n_genes=150, **options):
    adatas = [
        sti.datasets.simulate_tissue(n_rows=n_rows, n_cols=n_cols, n_genes=n_genes, seed=n, **options)
        for n in range(n_slides)
    ]
    for adata in adatas:
        sti.pp.compact_grid(adata)
    return adatas


def kernel(slide, width):
    """Weights of all pairs of sites at their physical positions, rows summing to one."""
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(np.float64)
    weights = np.exp(-0.5 * (np.linalg.norm(positions[:, None] - positions[None], axis=2) / width) ** 2) * slide.active
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("layout", "n_rows", "n_cols", "library_size", "factor"),
    [
        ("hex", 18, 16, 3000, 1.0),
        ("square", 18, 16, 3000, 1.0),
        ("irregular", 18, 16, 3000, 1.0),
        ("hex", 36, 35, 3000, 1.0),
        ("square", 40, 40, 12, 4.5 / 2.2),
    ],
)
def test_against_the_formula(layout, n_rows, n_cols, library_size, factor):
    adatas = slides(2, n_rows, n_cols, n_genes=200, layout=layout, library_size=library_size)
    model = sti.models.SmoothedPCA(adatas)
    assert model.readout.width_factor == pytest.approx(factor)
    corpus = sti.data.Corpus.from_anndata(adatas, genes=model.genes).to_target_sum(1e3)
    centred = [slide.expression.toarray() - slide.expression[slide.active].toarray().mean(axis=0) for slide in corpus]
    together = np.concatenate([x[s.active] for x, s in zip(centred, corpus, strict=True)])
    if len(together) > 2000:
        # On slides of a thousand spots and more, no gene varies more than the upper quartile of genes.
        assert all(slide.active.sum() >= 1000 for slide in corpus)
        scale = np.minimum(1, np.quantile(together.var(axis=0), 0.75) ** 0.5 / together.std(axis=0))
        centred, together = [x * scale for x in centred], together * scale
    pca = PCA(30, svd_solver="full").fit(together)
    scores = [x @ pca.components_.T for x in centred]
    widths = 1.0 * factor, 2.2 * factor
    context = [sum(kernel(s, width) @ x for width in widths) / 2 for x, s in zip(scores, corpus, strict=True)]
    spread = np.sqrt(np.concatenate([c[s.active] for c, s in zip(context, corpus, strict=True)]).var(axis=0).sum())
    found = [model.get_latent_representation(adata) for adata in adatas]
    for part, slide, vectors in zip(context, corpus, found, strict=True):
        expected = part[slide.site_of_observation] / spread
        # The signs of axes are free.
        np.testing.assert_allclose(pdist(vectors[:, :30]), pdist(expected), atol=5e-3)
    # Codes are those of the near surroundings, averaged over them once more.
    near = [kernel(s, 1.5 * factor) @ x for x, s in zip(scores, corpus, strict=True)]
    codes = NicheCodes.fit(np.concatenate([x[s.active] for x, s in zip(near, corpus, strict=True)]))
    averaged = [kernel(s, 1.5 * factor) @ codes(x) for x, s in zip(near, corpus, strict=True)]
    together = [pdist(a[s.site_of_observation]) for a, s in zip(averaged, corpus, strict=True)]
    for distances, vectors in zip(together, found, strict=True):
        assert np.corrcoef(distances, pdist(vectors[:, 30:]))[0, 1] > 0.95


def test_no_gene_leads_on_large_slides():
    """A gene that varies a lot without regard to tissue is in the first axis of small slides, not of large ones."""
    share = {}
    for n_rows in (18, 36):
        (adata,) = slides(1, n_rows, n_rows)
        counts = adata.X.toarray()
        counts[:, 3] = np.random.default_rng(0).choice([0, 300], size=adata.n_obs)
        adata.X = sparse.csr_matrix(counts)
        slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names).to_target_sum(1e3)[0]
        first = own_axes([slide])[:, 0]
        share[n_rows] = first[3] ** 2 / np.square(first).sum()
    assert share[18] > 0.5 > share[36]


def test_spread_of_each_part_on_the_slides_of_the_fit():
    (adata,) = slides(1)
    vectors = sti.models.SmoothedPCA(adata).get_latent_representation(adata)
    assert vectors.dtype == np.float32
    assert vectors.shape[1] <= 64
    assert vectors[:, :30].var(axis=0).sum() == pytest.approx(1, rel=1e-3)
    assert vectors[:, 30:].var(axis=0).sum() == pytest.approx(0.7**2, rel=1e-3)


def test_a_new_slide_is_described_without_being_fitted():
    first, second = slides()
    model = sti.models.SmoothedPCA(first)
    before = model.model_id
    with assert_unchanged(first, second):
        vectors = model.get_latent_representation(second)
    assert model.model_id == before
    # Nothing of other slides enters.
    both = model.get_latent_representation([first, second])
    np.testing.assert_allclose(both[first.n_obs :], vectors, atol=1e-6)


@pytest.mark.parametrize(("n_rows", "library_size"), [(18, 3000), (40, 12)])
def test_observations_may_come_in_any_order(n_rows, library_size):
    (adata,) = slides(1, n_rows, n_rows, n_genes=200, layout="square", library_size=library_size)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    model = sti.models.SmoothedPCA(adata)
    assert (model.readout.width_factor > 1) == (library_size < 100)
    vectors = model.get_latent_representation(adata)
    shuffled = sti.models.SmoothedPCA(adata[order].copy()).get_latent_representation(adata[order].copy())
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-4)


@pytest.mark.parametrize(("n_rows", "library_size", "factor"), [(18, 3000, 1.0), (40, 12, 4.5 / 2.2)])
def test_saved_and_loaded(tmp_path, n_rows, library_size, factor):
    adata, other = slides(2, n_rows, n_rows, n_genes=200, layout="square", library_size=library_size)
    model = sti.models.SmoothedPCA(adata, n_pool_genes=100)
    assert model.embedding_record()["width_factor"] == pytest.approx(factor)
    model.save(tmp_path / "model")
    loaded = sti.models.SmoothedPCA.load(tmp_path / "model")
    assert loaded.model_id == model.model_id
    assert loaded.manifest_record() == model.manifest_record()
    np.testing.assert_array_equal(loaded.get_latent_representation(other), model.get_latent_representation(other))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="truncated or altered"):
        sti.models.SmoothedPCA.load(tmp_path / "model")


def test_a_corpus_on_disk_gives_the_same(tmp_path):
    adatas = slides()
    model = sti.models.SmoothedPCA(adatas, n_pool_genes=100)
    corpus = sti.data.Corpus.from_anndata(adatas, genes=model.genes)
    corpus.write(tmp_path / "corpus", target_sum=1e3)
    stored = sti.data.Corpus.open(tmp_path / "corpus")
    np.testing.assert_allclose(
        model.get_latent_representation(stored), model.get_latent_representation(corpus), atol=2e-2
    )
    assert sti.models.SmoothedPCA(stored).genes.tolist() == model.genes.tolist()


@pytest.mark.parametrize("n_obs", [3, 5, 12])
def test_few_observations(n_obs):
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(rng.poisson(3.0, (n_obs, 20)).astype(np.float32))
    adata.obs["array_row"], adata.obs["array_col"] = np.divmod(np.arange(n_obs), 2)
    sti.pp.compact_grid(adata, layout="square")
    vectors = sti.models.SmoothedPCA(adata).get_latent_representation(adata)
    assert len(vectors) == n_obs
    assert np.isfinite(vectors).all()


def test_no_torch_is_needed():
    code = (
        "import sys, stimage as sti; a = sti.datasets.simulate_tissue(n_rows=12, n_cols=12, n_genes=60); "
        "sti.pp.compact_grid(a); sti.models.SmoothedPCA(a).get_latent_representation(a); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"


def test_shared(tmp_path):
    (adata,) = slides(1)
    model = sti.models.SmoothedPCA(adata, n_pool_genes=100)
    model.save_pretrained(tmp_path / "model", license="mit")
    assert sti.models.SmoothedPCA.from_pretrained(tmp_path / "model").model_id == model.model_id
    assert f"| model id | `{model.model_id}` |" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(ValueError, match="`half_precision` is for weights that were trained"):
        model.save(tmp_path / "half", half_precision=True)
    with pytest.raises(ValueError, match="of kind 'SmoothedPCA', not 'STImage'"):
        sti.models.STImage.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("axes", lambda tensor: tensor[:-1], r"shape \(99, 30\) instead of \(100, 30\)"),
        ("axes", lambda tensor: tensor[:, :-1], "shape"),
        ("axes", lambda tensor: tensor * float("nan"), "NaN or infinite"),
        ("axes", lambda tensor: tensor[0], "instead of 2 axes"),
        ("scales", lambda tensor: -tensor, "a scale of the readout is not above 0"),
        ("width_factor", lambda _: torch.full((1,), 1e6), "the width factor of the readout is out of range"),
        ("codes.codes.axes", lambda tensor: tensor[:0], "are empty"),
        ("other", lambda _: torch.ones(3), "1 are unexpected"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, name, change, reason):
    (adata,) = slides(1)
    sti.models.SmoothedPCA(adata, n_pool_genes=100).save(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({name: change(weights.get(name))}))
    with pytest.raises(ValueError, match=f"is damaged: its config and weights do not fit \\(.*{reason}"):
        sti.models.SmoothedPCA.load(tmp_path)
