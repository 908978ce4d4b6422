import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stimage as sti
from stimage._paths import give_numba_a_cache, path_of, user_cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_home_in_paths(home):
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=16, n_genes=60)
    sti.pp.compact_grid(adata)
    corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names)
    corpus.write("~/corpus")
    assert len(sti.data.Corpus.open("~/corpus")) == 1 and (home / "corpus").is_dir()
    model = sti.models.STImage(adata, window=8, n_pool_genes=60, n_genes=30)
    model.save("~/model")
    assert sti.models.STImage.load("~/model").genes.tolist() == model.genes.tolist()
    sti.pl.domains(adata, color="domain", save="~/figure.png", show=False)
    assert (home / "figure.png").is_file()
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(home / "image.png")
    assert sti.data.SlideImage("~/image.png").size == (30, 20)
    assert not (home / "~").exists()


def test_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(Path, "expanduser", lambda path: no_home())
    assert user_cache().name == "stimage"
    assert path_of("~/x") == Path("~/x")


def test_numba_has_a_folder_where_nothing_can_be_written(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr("stimage._paths._can_write", lambda folder: False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    give_numba_a_cache()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()


def test_numba_is_left_alone_otherwise():
    code = "import os, stimage; print('NUMBA_CACHE_DIR' in os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "False", run.stderr
