import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import in_groups

import stimage as sti
from stimage.models._own_axes import fit_on_own_axes
from stimage.models._setup import corpus_of

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "src" / "stimage" / "pretrained" / "human"
has_checkpoint = pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="there is no checkpoint in src/")


@pytest.fixture(scope="module")
def slide():
    adata = sti.datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=60, n_domains=3, seed=0)
    sti.pp.compact_grid(adata)
    return adata


@pytest.fixture(scope="module")
def stand_in(slide):
    """A model in the place of the one that ships."""
    options = {"window": 6, "n_pool_genes": 40, "n_genes": 20, "windows_per_epoch": 8, "batch_size": 4}
    options |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    return sti.tl.pretrain(slide, **in_groups(sti.tl.pretrain, **options))


def test_tissues_whose_genes_are_called_otherwise(shared_data):
    import anndata

    def read(name: str) -> anndata.AnnData:
        adata = anndata.read_h5ad(shared_data / name / f"{name}.h5ad")
        sti.pp.compact_grid(adata)
        return adata

    heart, breast = read("heart_dev_1_CN73_E1"), [read("her2st_C1"), read("her2st_D1")]
    pool = sti.pp.select_genes(breast, n_genes=1000).genes
    vocabulary = sti.data.Vocabulary.from_anndata([heart], pool)
    corpus = sti.data.Corpus.from_anndata(breast, genes=vocabulary)
    options = {"window": 8, "n_genes": 128, "windows_per_epoch": 16, "batch_size": 8, "enable_progress_bar": False}
    model = sti.tl.pretrain(corpus, **in_groups(sti.tl.pretrain, max_epochs=3, accelerator="cpu", **options))
    renamed = heart.copy()
    renamed.var_names = heart.var["gene_ids"].astype(str) + ".1"
    del renamed.var["gene_ids"]
    known = heart.var_names.isin(pool) & heart.var["gene_ids"].str.startswith("ENSG")
    for adata in (heart, renamed):
        sti.tl.embed(adata, model)
        assert adata.uns["stimage"]["X_stimage"]["n_genes_shared"] == known.sum() > 800
    np.testing.assert_array_equal(renamed.obsm["X_stimage"], heart.obsm["X_stimage"])


@pytest.fixture
def installation(tmp_path):
    """A copy of the package without its checkpoint."""
    shutil.copytree(
        ROOT / "src" / "stimage", tmp_path / "stimage", ignore=shutil.ignore_patterns("__pycache__", "human")
    )
    return tmp_path


def run(installation: Path, code: str, *arguments: Path) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(0, {str(installation)!r}); import anndata, stimage as sti\n{code}"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


EMBED = """
adata = anndata.read_h5ad(sys.argv[1])
sti.tl.embed(adata, "human")
sti.tl.reconstruct_region(adata, size=3)
adata.write_h5ad(sys.argv[2])
"""


def test_embed_and_reconstruct_use_it(installation, stand_in, slide, tmp_path):
    stand_in.save(installation / "stimage" / "pretrained" / "human")
    slide.write_h5ad(tmp_path / "in.h5ad")
    result = run(installation, EMBED, tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    assert result.returncode == 0, result.stderr
    import anndata

    found, expected = anndata.read_h5ad(tmp_path / "out.h5ad"), slide.copy()
    corpus = corpus_of(expected, n_pool_genes=2000)
    closed, predicted, _ = fit_on_own_axes([expected], corpus, stand_in, seed=0, asked=True)
    sti.tl.reconstruct_region(expected, stand_in, size=3)
    np.testing.assert_allclose(found.obsm["X_stimage"], closed.embed(corpus, predicted), atol=1e-5)
    assert found.uns["stimage"]["X_stimage"]["predictor_id"] == stand_in.model_id
    np.testing.assert_allclose(
        found.layers["stimage_region"].toarray(), expected.layers["stimage_region"].toarray(), atol=1e-5
    )


def test_an_installation_without_checkpoint_says_so(installation):
    result = run(installation, "sti.pretrained.load()")
    assert "FileNotFoundError: The checkpoint 'human' is not in this installation" in result.stderr
    assert "stimage.tl.pretrain" in result.stderr


def test_an_installation_without_known_tissues_embeds_without(installation, slide, tmp_path):
    shutil.rmtree(installation / "stimage" / "pretrained" / "tissues", ignore_errors=True)
    slide.write_h5ad(tmp_path / "in.h5ad")
    code = "adata = anndata.read_h5ad(sys.argv[1])\nsti.tl.embed(adata)\nprint(sti.pretrained.known_tissues())"
    result = run(installation, code, tmp_path / "in.h5ad")
    assert result.stdout == "None\n", result.stderr


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` must be one of 'human', found 'mouse'"):
        sti.pretrained.load("mouse")


@has_checkpoint
def test_shipped_checkpoint(slide):
    model = sti.pretrained.load()
    assert model.is_trained
    assert len(model.vocabulary.ensembl_ids) > len(model.genes) / 2
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 20e6
    card = (SHIPPED / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{model.model_id}`" in card
    assert all(f"| {name} |" in card for name in model.manifest["slides"]["name"])
    with pytest.raises(ValueError, match="0 genes of adata.var_names.*stimage.tl.pretrain"):
        sti.tl.embed(slide, "human")


@has_checkpoint
def test_wheel_has_the_checkpoint(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    path = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = zipfile.ZipFile(path).namelist()
    assert {f"stimage/pretrained/human/{file.name}" for file in SHIPPED.iterdir()} <= set(names)
    assert {f"stimage/pretrained/tissues/genes.{ending}" for ending in ("json", "npz")} <= set(names)
