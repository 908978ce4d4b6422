"""The method module for SpaceHack, called as its workflow calls it on files in its layout."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

import stimage as sti

MODULE = Path(__file__).resolve().parents[2] / "benchmarks" / "spacehack" / "stimage"


@pytest.fixture(scope="module")
def slide():
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=16, n_genes=60, seed=0)
    sti.pp.compact_grid(adata)
    return adata


@pytest.fixture(scope="module")
def sample(slide, tmp_path_factory):
    """A sample as SpaceHack stores it: names in the first column, rows of coordinates in another order, two spots and a gene not selected."""
    folder = tmp_path_factory.mktemp("sample")
    names = slide.obs_names
    observations = slide.obs[["array_row", "array_col"]].set_axis(["row", "col"], axis=1)
    observations["selected"] = ~np.isin(np.arange(len(names)), [3, 100])
    features = pd.DataFrame({"selected": np.arange(slide.n_vars) != 7}, index=slide.var_names)
    coordinates = pd.DataFrame(slide.obsm["spatial"], index=names, columns=["x", "y"])
    coordinates = coordinates.sample(frac=1, random_state=0)
    for name, table in {"observations": observations, "features": features, "coordinates": coordinates}.items():
        table.to_csv(folder / f"{name}.tsv", sep="\t", index_label="")
    mmwrite(folder / "counts.mtx", sparse.coo_matrix(slide.X).astype(np.int64))
    return folder


def run(monkeypatch, sample, output, n_clusters, config):
    files = {"-c": "coordinates.tsv", "-m": "counts.mtx", "-f": "features.tsv", "-o": "observations.tsv"}
    script = str(MODULE / "method_stimage.py")
    command = [script, *(part for option, name in files.items() for part in (option, str(sample / name)))]
    command += ["-d", str(output), "--n_clusters", str(n_clusters), "--technology", "Visium", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", [*command, "--config", str(MODULE / "config" / config)])
    runpy.run_path(script, run_name="__main__")
    tables = [pd.read_table(output / name, index_col=0) for name in ("domains.tsv", "embedding.tsv")]
    return tables[0], tables[1]


def test_the_module_gives_what_our_calls_give(slide, sample, tmp_path, monkeypatch):
    labels, embedding = run(monkeypatch, sample, tmp_path / "new" / "folder", 4, "config_2.json")
    kept = np.delete(np.arange(slide.n_obs), [3, 100])
    own = slide[kept, np.arange(slide.n_vars) != 7].copy()
    sti.pp.compact_grid(own)
    sti.tl.embed(own, model="closed", seed=5)
    sti.tl.domains(own, 4, method="gmm", seed=5)
    assert labels.columns.tolist() == ["label"]
    assert labels.index.tolist() == embedding.index.tolist() == own.obs_names.tolist()
    np.testing.assert_array_equal(labels["label"].astype(str), own.obs["stimage_domain"].astype(str))
    np.testing.assert_allclose(embedding.to_numpy(), own.obsm["X_stimage"], rtol=1e-5, atol=1e-6)


def test_options_are_those_of_the_schema():
    """The five keys that the workflow's schema names, of the types that it asks for."""
    options = json.loads((MODULE / "stimage_optargs.json").read_text())
    assert options.pop("matrix") in ("counts", "transform", "dimensionality_reduction")
    assert options.keys() == {"integrated_feature_selection", "image", "neighbors", "config_file"}
    assert all(isinstance(value, bool) for value in options.values())


@pytest.mark.parametrize("config", sorted(path.name for path in (MODULE / "config").iterdir()))
def test_configurations_name_known_clusterings(config):
    from stimage.models.clustering import METHODS

    assert json.loads((MODULE / "config" / config).read_text())["clustering"] in METHODS
