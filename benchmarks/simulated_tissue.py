"""How much simulated slides look like tissue: the same statistics of real and simulated slides.

    python benchmarks/simulated_tissue.py --data ../shared/data     # docs/results/simulated_tissue.json, minutes
    python benchmarks/simulated_tissue.py --short                   # simulated, seconds, writes nothing

On principal axes of each slide (log1p of counts per 1,000, the 2,000 most variable genes, centred): their variance relative to the
first, the share of it between annotated domains, and the correlation of what is left within domains with the six nearest neighbours. Beside these, the spread of library sizes, how smooth they are, and how hard the domains are to find: adjusted
Rand index of k-means on ten axes averaged over the nearest spots, the true number of domains given.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import stimage as sti

if TYPE_CHECKING:
    from anndata import AnnData

REAL = (
    "DLPFC_151673",
    "DLPFC_151674",
    "STARmap_mPFC_BZ5",
    "osmFISH_mouse_cortex",
    "her2st_A1",
    "her2st_D1",
    "heart_dev_3_CN73_D2",
    "img-MOB_Rep11",
)
SIMULATED = {
    "layers, hex": {},
    "patches, hex": {"pattern": "patches"},
    "layers, irregular": {"layout": "irregular"},
    "patches, irregular": {"pattern": "patches", "layout": "irregular"},
}
AXES = (1, 2, 3, 4, 6, 9, 13, 20)
N_VARIABLE = 2000
N_AVERAGED = (1, 7, 19)  # spots in a mean, the spot itself among them


def read(folder: Path, name: str) -> tuple[AnnData, np.ndarray]:
    """A real slide and its annotation, "" where there is none."""
    import anndata

    adata = anndata.read_h5ad(folder / name / f"{name}.h5ad")
    label = adata.obs["label"]
    return adata, np.where(label.isna(), "", label.astype(str))


def components(counts: sparse.csr_matrix, n_axes: int) -> np.ndarray:
    """Scores of all spots on the principal axes of the slide."""
    library = np.asarray(counts.sum(axis=1)).ravel()
    expression = counts.multiply(1e3 / np.maximum(library, 1)[:, None]).tocsr().log1p()
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    chosen = np.argsort(variance)[::-1][:N_VARIABLE]
    dense = expression[:, chosen].toarray()
    return PCA(min(n_axes, *(n - 1 for n in dense.shape)), random_state=0).fit_transform(dense)


def correlation_of_neighbours(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean correlation of each column of a spot and its six nearest others (covariance with their mean, over the variance)."""
    near = cKDTree(places).query(places, k=7)[1][:, 1:]
    centred = values - values.mean(axis=0)
    return (centred * centred[near].mean(axis=1)).mean(axis=0) / centred.var(axis=0)


def of_domains(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean of the domain of each spot (n, k)."""
    index = np.unique(label, return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return (sums / np.bincount(index)[:, None])[index]


def statistics(adata: AnnData, label: np.ndarray) -> dict[str, float | list[float]]:
    """What is compared, of spots with an annotation; axes and library sizes are of all spots that have counts."""
    counts = sparse.csr_matrix(adata.X)
    library = np.asarray(counts.sum(axis=1)).ravel()
    kept = library > 0
    places, label = np.asarray(adata.obsm["spatial"], dtype=float)[kept], label[kept]
    scores = components(counts[kept], max(AXES))
    known = label != ""
    log_library = np.log(library[kept])[:, None]

    axes = [axis - 1 for axis in AXES if axis <= scores.shape[1]]
    centred = scores[known][:, axes] - scores[known][:, axes].mean(axis=0)
    domain = of_domains(centred, label[known])
    result = {
        "spots": int(known.sum()),
        "domains": len(set(label[known])),
        "genes": adata.n_vars,
        "median library": float(np.median(library)),
        "variance": (scores.var(axis=0)[axes] / scores[:, 0].var()).tolist(),
        "between domains": (domain.var(axis=0) / centred.var(axis=0)).tolist(),
        "neighbours within domains": correlation_of_neighbours(centred - domain, places[known]).tolist(),
        "library spread": float(log_library.std()),
        "library between domains": float(of_domains(log_library[known], label[known]).var() / log_library[known].var()),
        "library neighbours": float(correlation_of_neighbours(log_library, places)[0]),
        "zeros": 1 - counts.nnz / np.prod(counts.shape),
    }
    for n in N_AVERAGED:
        near = cKDTree(places).query(places, k=n)[1].reshape(len(places), n)
        found = KMeans(result["domains"], n_init=20, random_state=0).fit_predict(
            scores[:, :10][near].mean(axis=1)[known]
        )
        result[f"ARI, mean of {n}"] = float(adjusted_rand_score(label[known], found))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("docs/results/simulated_tissue.json"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    results: dict[str, dict] = {"real": {}, "simulated": {}}
    if not arguments.short:
        for name in REAL:
            results["real"][name] = show(name, statistics(*read(arguments.data, name)))
    smaller = {"n_rows": 24, "n_cols": 18, "n_genes": 200} if arguments.short else {}
    for name, options in SIMULATED.items():
        results["simulated"][name] = []
        for seed in range(1 if arguments.short else arguments.seeds):
            adata = sti.datasets.simulate_tissue(**options, **smaller, seed=seed)
            found = statistics(adata, adata.obs["domain"].astype(str).to_numpy())
            results["simulated"][name].append(show(f"{name}, seed {seed}", found))
    if not arguments.short:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": "python benchmarks/simulated_tissue.py",
            "versions": {package: version(package) for package in ("stimage", "numpy", "scipy", "scikit-learn")},
            "axes": AXES,
            **results,
        }
        arguments.output.write_text(json.dumps(document, indent=1))


def show(name: str, found: dict) -> dict:
    found = {key: np.round(value, 4).tolist() for key, value in found.items()}
    print(name)
    for key, value in found.items():
        print(f"  {key}: {value}", flush=True)
    return found


if __name__ == "__main__":
    main()
