"""A slide of 700,000 sites and 18,000 genes from its file to a figure of its domains: seconds and peak memory of each step.

    OMP_NUM_THREADS=1 python benchmarks/whole_slide.py            # docs/results/whole_slide.json; 25 minutes, 4 GB of disk
    OMP_NUM_THREADS=1 python benchmarks/whole_slide.py --short    # 2,500 sites, seconds, writes nothing

Bins of 8 micrometres with 200 counts on median, of tissue whose domains are regions of about a millimetre: mixtures of cell
types whose counts are multinomial. The file is written some rows at a time. Each step is a process of its own that uses the public
interface alone and leaves its result on disk; the AnnData is backed, so that counts are read from the file. Peak memory is
that of the whole process, Python and libraries included. The same is done with a tenth of the slide: asked are less than 4 GB,
and a cost per site that does not grow by more than a fifth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

SITE = 8.0  # micrometres
MEDIAN_COUNTS = 200
N_DOMAINS, N_SHARED = 7, 4
PATCH = 1000.0  # micrometres, size of a region
ROWS_AT_A_TIME = 16
LARGEST_GIGABYTES, LARGEST_RATIO = 4.0, 1.2
SHORT = {"side": 50, "genes": 1000, "pool": 200, "steps": 2}


def simulate(folder: Path, side: int, n_genes: int) -> dict[str, float]:
    """Write ``slide.h5ad``: square bins in raster order, a few rows of them at a time."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    rng = np.random.default_rng(0)
    cumulated = np.cumsum(signatures(n_genes, rng), axis=1)
    domain = domains(side, rng)
    depth = np.exp(rng.normal(0, 0.28, N_DOMAINS)[domain] + rng.normal(0, 0.4, domain.shape)) * MEDIAN_COUNTS
    row, col = (index.ravel() for index in np.indices(domain.shape))
    # Sites of one domain hold all types, their own above all, in proportions of a few cells.
    shape = np.full((N_DOMAINS, N_DOMAINS + N_SHARED), 0.15)
    shape[:, N_DOMAINS:] = 0.8
    np.fill_diagonal(shape, 3.0)
    with h5py.File(folder / "slide.h5ad", "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (side**2, n_genes)})
        columns = {"data": np.float32, "indices": np.int32}
        stored = {
            name: group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1 << 18,), compression="lzf")
            for name, dtype in columns.items()
        }
        lengths = []
        for start in range(0, side, ROWS_AT_A_TIME):
            part = np.s_[start : start + ROWS_AT_A_TIME]
            counts = draw(cumulated, shape[domain[part].ravel()], depth[part].ravel(), rng)
            for name, dataset in stored.items():
                dataset.resize((dataset.shape[0] + counts.nnz,))
                dataset[-counts.nnz :] = getattr(counts, name)
            lengths.append(np.diff(counts.indptr))
        group["indptr"] = np.concatenate([[0], np.cumsum(np.concatenate(lengths, dtype=np.int64))])
        obs = pd.DataFrame(
            {"array_row": row, "array_col": col, "domain": pd.Categorical(domain.ravel().astype(str))},
            index=[f"s_008um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)],
        )
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"GENE{gene:05d}" for gene in range(n_genes)]))
        write_elem(file, "obsm", {"spatial": np.column_stack([col, row]) * SITE})
        for name in ("uns", "layers", "varm", "obsp", "varp"):
            write_elem(file, name, {})
        n_values = int(group["indptr"][-1])
    return {"values": n_values, "matrix_megabytes": round((8 * n_values + 8 * side**2) / 1e6, 1)}


def signatures(n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Expression of the cell types (types x genes), as that of `stimage.datasets.simulate_tissue`: few genes are frequent."""
    n_types = N_DOMAINS + N_SHARED
    base = rng.gamma(0.35, size=n_genes) + 1e-3
    raised = rng.random((n_types, n_genes)) < 2 / n_types
    effect = raised * rng.gamma(2.0, 0.45, (n_types, n_genes)) * (rng.random(n_genes) < 0.3)
    expression = base * np.exp(effect)
    return expression / expression.sum(axis=1, keepdims=True)


def domains(side: int, rng: np.random.Generator) -> np.ndarray:
    """Domain of each site (rows x columns): irregular regions of about a millimetre."""
    from scipy.ndimage import gaussian_filter, zoom
    from scipy.spatial import cKDTree

    extent = side * SITE
    n_across = max(2, round(extent / PATCH))
    lattice = np.stack(np.meshgrid(np.arange(n_across), np.arange(n_across)), axis=-1).reshape(-1, 2)
    centres = (lattice + rng.uniform(0.1, 0.9, lattice.shape)) * extent / n_across
    of_centre = (2 * lattice[:, 0] + 3 * lattice[:, 1] + rng.integers(2, size=len(lattice))) % N_DOMAINS
    places = (np.indices((side, side)).reshape(2, -1).T + 0.5) * SITE
    # Borders are bent by a smooth field.
    coarse = [gaussian_filter(rng.normal(size=(64, 64)), 3, mode="wrap") for _ in range(2)]
    bend = np.stack([zoom(field / field.std(), side / 64, order=1)[:side, :side].ravel() for field in coarse], axis=1)
    return of_centre[cKDTree(centres).query(places + 0.12 * PATCH * bend)[1]].reshape(side, side)


def draw(cumulated: np.ndarray, shape: np.ndarray, depth: np.ndarray, rng: np.random.Generator):
    """Counts of sites (sites x genes): each is of a gene of a cell type that the site holds."""
    from scipy import sparse

    proportions = rng.gamma(shape) + 1e-9
    proportions /= proportions.sum(axis=1, keepdims=True)
    of_type = rng.poisson(proportions * depth[:, None])
    sites, genes = [], []
    for number, one in enumerate(cumulated):
        sites.append(np.repeat(np.arange(len(depth)), of_type[:, number]))
        genes.append(np.searchsorted(one, rng.random(len(sites[-1])) * one[-1]))
    sites, genes = np.concatenate(sites), np.concatenate(genes)
    counts = sparse.coo_matrix((np.ones(len(sites), np.float32), (sites, genes)), (len(depth), cumulated.shape[1]))
    return counts.tocsr()


def opened(folder: Path):
    """The slide with its grid; its counts stay in the file."""
    import anndata as ad

    import stimage as sti

    adata = ad.read_h5ad(folder / "slide.h5ad", backed="r")
    sti.pp.compact_grid(adata)
    return adata


def build_corpus(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import stimage as sti

    adata = opened(folder)
    pool = sti.pp.select_genes(adata, n_genes=arguments.pool)
    sti.data.Corpus.from_anndata(adata, genes=pool.genes).write(folder / "corpus")
    return {}


def pretrain(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import stimage as sti

    corpus = sti.data.Corpus.open(folder / "corpus")
    options = {"windows_per_epoch": 32 * arguments.steps, "accelerator": "cpu", "enable_progress_bar": False}
    model = sti.tl.pretrain(corpus, max_epochs=1, batch_size=32, **options)
    model.save(folder / "model")
    return {"steps": arguments.steps}


def embed(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The embedding that needs no training."""
    import stimage as sti

    adata = opened(folder)
    sti.tl.embed(adata, "closed")
    np.save(folder / "closed.npy", adata.obsm["X_stimage"])
    return {}


def embed_with_model(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The embedding of the model that was trained on the slide, written to disk as it is computed."""
    import stimage as sti

    model = sti.models.STImage.load(folder / "model")
    found = model.get_latent_representation(
        sti.data.Corpus.open(folder / "corpus"), mode="visible", output=folder / "model.zarr"
    )
    return {"dimensions": found.shape[1]}


def find_domains(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    from sklearn.metrics import adjusted_rand_score

    import stimage as sti

    adata = opened(folder)
    adata.obsm["X_stimage"] = np.load(folder / "closed.npy")
    sti.tl.domains(adata, adata.obs["domain"].nunique(), smooth_neighbors=20)
    np.save(folder / "domains.npy", adata.obs["stimage_domain"].cat.codes.to_numpy())
    return {"ari": round(float(adjusted_rand_score(adata.obs["domain"], adata.obs["stimage_domain"])), 3)}


def estimate_number(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import stimage as sti

    adata = opened(folder)
    adata.obsm["X_stimage"] = np.load(folder / "closed.npy")
    sti.tl.domains(adata)
    return {"n_domains": int(adata.uns["stimage_domain"]["n_domains"])}


def figure(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import matplotlib as mpl
    import pandas as pd

    import stimage as sti

    mpl.use("agg")
    adata = opened(folder)
    adata.obs["stimage_domain"] = pd.Categorical(np.load(folder / "domains.npy").astype(str))
    sti.pl.domains(adata).savefig(folder / "domains.png")
    return {"megabytes": round((folder / "domains.png").stat().st_size / 1e6, 2)}


STEPS = {
    "simulated": lambda folder, arguments: simulate(folder, arguments.side, arguments.genes),
    "corpus of selected genes": build_corpus,
    "pretraining": pretrain,
    "embedding, closed form": embed,
    "embedding, trained model": embed_with_model,
    "domains": find_domains,
    "domains, number estimated": estimate_number,
    "figure": figure,
}


def peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def run_step(arguments: argparse.Namespace) -> None:
    """One step, in a process of its own: its figures as the last line."""
    # Imports and compiling are no cost of a slide: the step is first done with a small one.
    warm = arguments.folder / "warm"
    warm.mkdir(exist_ok=True)
    STEPS[arguments.step](warm, argparse.Namespace(**{**vars(arguments), **SHORT}))
    start = time.perf_counter(), time.process_time()
    found = STEPS[arguments.step](arguments.folder, arguments)
    seconds = {
        "seconds": round(time.perf_counter() - start[0], 2),
        "processor_seconds": round(time.process_time() - start[1], 2),
    }
    print(json.dumps({**seconds, "peak_megabytes": round(peak_megabytes(), 1), **found}))


def short() -> None:
    """All steps of a small slide in one process."""
    with tempfile.TemporaryDirectory(prefix="stimage_whole_slide_") as folder:
        for name, step in STEPS.items():
            start = time.perf_counter()
            found = step(Path(folder), argparse.Namespace(**SHORT))
            print(f"{name:28} {time.perf_counter() - start:6.2f} s {found}", flush=True)


def measure(side: int, **sizes: int) -> dict[str, object]:
    table = {}
    with tempfile.TemporaryDirectory(prefix="stimage_whole_slide_") as folder:
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", folder]
            command += [f"--{name}={value}" for name, value in {"side": side, **sizes}.items()]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
            if done.returncode:
                sys.exit(f"{step!r} failed:\n{done.stderr[-3000:]}")
            table[step] = json.loads(done.stdout.splitlines()[-1])
            print(f"{side**2:>8,} sites, {step:28} {table[step]}", flush=True)
        size = sum(
            part.stat().st_size for part in Path(folder).rglob("*") if part.is_file() and "warm" not in part.parts
        )
    return {"sites": side**2, "disk_megabytes": round(size / 1e6, 1), "steps": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/whole_slide.json"))
    parser.add_argument("--sides", type=int, nargs="+", default=[265, 837], help="sites along the slides")
    for name, default in {"genes": 18_000, "pool": 2000, "steps": 300}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, kind in {"step": str, "folder": Path, "side": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments)
        return
    sizes = {"genes": arguments.genes, "pool": arguments.pool, "steps": arguments.steps}
    if arguments.short:
        short()
        return
    slides = [measure(side, **sizes) for side in arguments.sides]
    small, large = slides[0], slides[-1]
    per_site = {}
    for step in STEPS:
        if step == "pretraining":  # as many windows of either slide
            continue
        cost = [1e6 * slide["steps"][step]["processor_seconds"] / slide["sites"] for slide in (small, large)]
        per_site[step] = {
            "microseconds_small": round(cost[0], 1),
            "microseconds_large": round(cost[1], 1),
            "ratio": round(cost[1] / cost[0], 2),
        }
    result = {
        "what": "seconds and peak memory of the process of each step from a slide's file to its domains",
        "command": "python benchmarks/whole_slide.py",
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("stimage", "torch", "anndata")},
        **sizes,
        "asked": {"gigabytes": LARGEST_GIGABYTES, "ratio": LARGEST_RATIO},
        "slides": slides,
        "per_site": per_site,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
