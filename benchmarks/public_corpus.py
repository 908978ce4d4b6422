"""Corpora from copies of STimage-1K4M and HEST-1k: time, memory and disk, and what 1,229 slides would take.

    OMP_NUM_THREADS=1 python benchmarks/public_corpus.py --data ../shared/data     # docs/results/corpus_build.json
    python benchmarks/public_corpus.py --short                                      # simulated slides, seconds, writes nothing

Real slides are written in the layout of both collections, and each copy is built into a corpus by the command line in a
process of its own. The peak is that of the whole process, with what importing the package takes given beside it. Each reader is
measured in the same way on the largest file of its format that was at hand; ``tiled`` slides repeat the spots of a real one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy import sparse
from scipy.spatial import cKDTree

import stimage as sti

LEAST_SPOTS = 50
SLIDES_OF_HEST = 1229
SPOTS_OF_A_SLIDE = 1_304_560 / 532  # human Visium of STimage-1K4M
GENES_OF_A_SLIDE = 33_538
N_GENES = 2000


def real_slides(data: Path) -> dict[str, AnnData]:
    """Slides of spots with counts of most genes; those that are there twice are taken once."""
    found = {}
    for path in sorted(data.glob("*/*.h5ad")):
        name = path.parent.name
        if name.startswith("img-her2st") or name.startswith(("STARmap", "osmFISH", "pf-", "breast_xenium", "lung_")):
            continue
        adata = read_h5ad(path)
        if adata.n_obs >= LEAST_SPOTS and adata.n_vars >= 1000 and "spatial" in adata.obsm:
            found[name] = adata
    return found


def simulated_slides() -> dict[str, AnnData]:
    return {f"slide{n}": sti.datasets.simulate_tissue(n_rows=20, n_cols=20, n_genes=200, seed=n) for n in range(6)}


def tiled(adata: AnnData, times: int) -> AnnData:
    """A slide whose spots are repeated side by side."""
    xy = np.asarray(adata.obsm["spatial"], dtype=float)
    width = np.ptp(xy[:, 0]) + 0.1 * np.ptp(xy[:, 0])
    counts = sparse.vstack([sparse.csr_matrix(adata.X)] * times, format="csr")
    obs = pd.DataFrame(index=[f"{name}-{n}" for n in range(times) for name in adata.obs_names])
    result = AnnData(counts, obs=obs, var=adata.var[[]].copy())
    result.obsm["spatial"] = np.concatenate([xy + [n * width, 0] for n in range(times)])
    return result


def pitch(xy: np.ndarray) -> float:
    """Distance of neighbouring spots."""
    return float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))


def species_of(name: str) -> str:
    return "mouse" if name.startswith("img-MOB") else "human"


def donor_of(name: str) -> str:
    return name.rsplit("_", 1)[-1][0] if name.startswith("her2st") else name.rsplit("_", 1)[0]


def write_stimage_1k4m(root: Path, slides: dict[str, AnnData]) -> None:
    """A table of counts and one of coordinates for each slide, and the table of all."""
    rows = []
    for name, adata in slides.items():
        folder = root / "Visium"
        for part in ("coord", "gene_exp"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        counts = sparse.csr_matrix(adata.X).astype(np.int64)
        with (folder / "gene_exp" / f"{name}_count.csv").open("w") as file:
            file.write("," + ",".join(adata.var_names) + "\n")
            for spot, start in zip(adata.obs_names, range(counts.shape[0]), strict=True):
                values = map(str, counts[start].toarray().ravel().tolist())
                file.write(f"{name}_{spot}," + ",".join(values) + "\n")
        xy = np.asarray(adata.obsm["spatial"])
        index = [f"{name}_{spot}" for spot in adata.obs_names]
        coord = pd.DataFrame({"yaxis": xy[:, 1], "xaxis": xy[:, 0], "r": 0.275 * pitch(xy)}, index=index)
        coord.to_csv(folder / "coord" / f"{name}_coord.csv")
        rows.append(
            {
                "slide": name,
                "species": species_of(name),
                "tissue": name.split("_")[0],
                "pmid": donor_of(name),
                "title": donor_of(name),
                "tech": "Visium",
                "spot_num": adata.n_obs,
                "gene_num": adata.n_vars,
            }
        )
    (root / "meta").mkdir()
    pd.DataFrame(rows).to_csv(root / "meta" / "meta_all_gene.csv", index=False)


def write_hest(root: Path, slides: dict[str, AnnData]) -> None:
    """An h5ad and its metadata for each slide."""
    for part in ("st", "metadata"):
        (root / part).mkdir(parents=True)
    for name, adata in slides.items():
        AnnData(
            sparse.csr_matrix(adata.X),
            obs=adata.obs[[]],
            var=adata.var[[]],
            obsm={"spatial": np.asarray(adata.obsm["spatial"])},
        ).write_h5ad(root / "st" / f"{name}.h5ad", compression="gzip")
        known = {
            "species": "Homo sapiens" if species_of(name) == "human" else "Mus musculus",
            "organ": name.split("_")[0],
            "st_technology": "Visium",
            "dataset_title": name.split("_")[0],
            "patient": donor_of(name),
            "spots_under_tissue": adata.n_obs,
        }
        (root / "metadata" / f"{name}.json").write_text(json.dumps(known))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measured(code: str) -> dict[str, float]:
    """Seconds and peak memory of some code in a process of its own, beside what the imports take."""
    program = f"""
import json, pathlib, time, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
import numpy, pandas, scanpy, squidpy, spatialdata, stimage.io, stimage.pp, stimage.data, scvi
scvi.settings.verbosity = 40
def highest():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
before = highest()
start = time.perf_counter()
shape = None
{code}
seconds = time.perf_counter() - start
peak = highest()
print("\\n" + json.dumps({{"seconds": round(seconds, 2), "imports_bytes": before, "peak_bytes": peak, "shape": shape}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def build(root: Path, path: Path, n_genes: int) -> dict[str, float]:
    words = [
        "corpus",
        str(root),
        str(path),
        "--species",
        "human",
        "--min-spots",
        str(LEAST_SPOTS),
        "--splits-by",
        "donor",
    ]
    words += ["--n-genes", str(n_genes)]
    result = measured(f"import stimage.__main__\nassert stimage.__main__.main({words!r}) == 0")
    result.pop("shape")
    corpus = sti.data.Corpus.open(path)
    sti.data.Corpus.verify(path)
    table = pd.read_csv(path / "slides.csv", index_col=0)
    splits = json.loads((path / "splits.json").read_text())
    return result | {
        "slides": len(corpus),
        "left_out": {name: str(row["reason"]) for name, row in table[table["status"] != "in the corpus"].iterrows()},
        "spots": corpus.n_sites,
        "table_cells": int(sum(SHAPES[slide.name]["n_obs"] * SHAPES[slide.name]["n_vars"] for slide in corpus)),
        "source_bytes": size(root),
        "corpus_bytes": size(path),
        "splits": {part: len(splits[part]) for part in ("train", "validation", "test")},
        "same_counts": {name: same for name, same in corpus.report()["same_counts_as"].items() if same},
    }


SHAPES: dict[str, dict[str, int]] = {}


def readers(folder: Path, slides: dict[str, AnnData], data: Path | None) -> dict[str, dict[str, float]]:
    """Each reader on the largest file at hand."""
    paths: dict[str, Path] = {}
    largest = max(slides.values(), key=lambda adata: adata.n_obs * adata.n_vars)
    whole = tiled(largest, max(1, round(4992 / largest.n_obs)))
    write_stimage_1k4m(folder / "stimage", {"whole": whole})
    write_hest(folder / "hest", {"whole": whole})
    paths["STimage-1K4M, tiled"] = folder / "stimage/Visium/gene_exp/whole_count.csv"
    paths["HEST-1k, tiled"] = folder / "hest/st/whole.h5ad"
    if data is not None:
        vendor = data.parent / "vendor"
        known = {
            "AnnData": data / "DLPFC_151673" / "DLPFC_151673.h5ad",
            "Space Ranger": vendor / "seurat_visium",
            "Visium HD": vendor / "seurat_visium_hd/binned_outputs/square_008um",
            "Xenium": vendor / "Xenium_mouse_brain_subset",
            "SpatialData": vendor / "SpatialData_merfish.zarr",
            "CosMx": vendor / "SFE_cosmx_flat",
            "Stereo-seq GEM": vendor / "spateo_stereoseq_gem/SS200000135TL_D1_bin1_small.gem.gz",
        }
        paths |= {name: path for name, path in known.items() if path.exists()}
    found = {}
    for name, path in paths.items():
        code = f"adata = stimage.io.read({str(path)!r}, images=False); shape = list(adata.shape)"
        found[name] = measured(code) | {"file_bytes": size(path) if path.is_dir() else path.stat().st_size}
        print(name, found[name], flush=True)
    return found


def estimate(name: str, result: dict[str, float]) -> dict[str, float]:
    """What all slides would take: time by cells of the tables, disk by spots."""
    spots = SLIDES_OF_HEST * SPOTS_OF_A_SLIDE
    cells = spots * GENES_OF_A_SLIDE
    return {
        "slides": SLIDES_OF_HEST,
        "spots": round(spots),
        "hours": round(result["seconds"] / result["table_cells"] * cells / 3600, 2),
        "corpus_gigabytes": round(result["corpus_bytes"] / result["spots"] * spots / 1e9, 2),
        "source_gigabytes": round(result["source_bytes"] / result["table_cells"] * cells / 1e9, 1),
        "assumed": f"{SPOTS_OF_A_SLIDE:.0f} spots and {GENES_OF_A_SLIDE} genes a slide; time of {name} by spots times genes",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/corpus_build.json"))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    slides = simulated_slides() if options.short else real_slides(options.data)
    SHAPES.update({name: {"n_obs": adata.n_obs, "n_vars": adata.n_vars} for name, adata in slides.items()})
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in (("STimage-1K4M", write_stimage_1k4m), ("HEST-1k", write_hest)):
            root = Path(folder) / name
            write(root, slides)
            start = time.perf_counter()
            result = build(root, Path(folder) / f"{name} corpus", 100 if options.short else N_GENES)
            results[name] = result | {"estimate": estimate(name, result)}
            print(name, json.dumps(results[name], indent=1), f"({time.perf_counter() - start:.0f} s)", flush=True)
        results["readers"] = readers(Path(folder) / "readers", slides, None if options.short else options.data)
    if not options.short:
        machine = {"python": platform.python_version(), "processor": platform.machine(), "threads": 1}
        machine |= {name: version(name) for name in ("anndata", "scanpy", "squidpy", "spatialdata", "numpy")}
        document = {"slides": SHAPES, "results": results, "machine": machine}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
