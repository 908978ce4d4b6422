"""The public task of hidden regions: its places, the baselines, our model, and the page of the leaderboard.

    python benchmarks/region_leaderboard.py --data ../shared/data          # docs/results/region_task/<method>.json, and the page
    python benchmarks/region_leaderboard.py --draw --data ../shared/data   # draws the places anew: a new version of the task
    python benchmarks/region_leaderboard.py --page                         # the page alone, from the stored results
    python benchmarks/region_leaderboard.py --short                        # simulated, seconds, writes nothing

A method that is stored is not run again. "stimage, human checkpoint" runs on the slides that the checkpoint was not trained on.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _region_tables import RESULTS
from _studies import simulated_study
from _tables import main as write_tables
from scipy import sparse

import stimage as sti
from stimage.benchmark import REGION_BASELINES, kriging, region_method, region_task, smooth_fill, submit
from stimage.benchmark.regions import _task

# Human sections on a lattice. Sizes are in sites: 100 µm on Visium, 200 µm on the older arrays.
SIZES = {
    "DLPFC_Br8325_ant": (4, 8, 14),
    "HCC1_visium_liver": (4, 8, 14),
    "prostate_cancer_visium": (4, 8),
    "breast_ST_Stahl_layer1": (4, 6),
    "DLPFC_151673": (4, 8, 14),
    "colon_fetal_A3_visium": (4, 8),
    "her2st_A1": (4, 6),
    "her2st_B1": (4, 6),
    "her2st_D1": (4, 6),
    "her2st_E1": (4, 6),
}
VERSION, N_GENES, INTERVAL, N_PLACES, SEED = 1, 512, 0.9, 5, 0
OURS = "stimage, human checkpoint"


def read(folder: Path, names: list[str]) -> dict[str, anndata.AnnData]:
    return {name: anndata.read_h5ad(folder / name / f"{name}.h5ad") for name in names}


def drawn(slides: dict[str, anndata.AnnData], sizes: dict[str, tuple[int, ...]]) -> _task.RegionTask:
    described = []
    for number, (name, adata) in enumerate(slides.items()):
        regions = _task.draw_regions(adata, sizes[name], N_PLACES, SEED + number)
        described.append(_task.describe(adata, name, regions))
    return _task.RegionTask(VERSION, N_GENES, INTERVAL, SEED, tuple(described))


def checkpoint(model: sti.models.STImage):
    """Our model as a method; genes that it does not know are filled in closed form."""

    def method(visible, positions):
        wanted = visible.var["predicted"].to_numpy()
        n = len(positions)
        counts = sparse.vstack([visible.X, sparse.csr_matrix((n, visible.n_vars), dtype=visible.X.dtype)], format="csr")
        # A hidden spot holds one count, so that it counts as a spot; it is not looked at.
        counts = counts.tolil()
        counts[len(visible) :, 0] = 1
        both = anndata.AnnData(counts.tocsr())
        both.var_names = visible.var_names
        both.obs_names = [*visible.obs_names, *(f"hidden {i}" for i in range(n))]
        both.obsm["spatial"] = 100.0 * np.vstack([visible.obsm["spatial"], positions])
        sti.pp.compact_grid(both)
        hidden = np.arange(both.n_obs) >= len(visible)
        result = model.reconstruct_region(both, region=hidden, interval=INTERVAL)
        parts = [
            sparse.csr_matrix(part)[hidden][:, wanted].toarray()
            for part in (result.expression, result.lower, result.upper)
        ]
        plain = region_method(smooth_fill)(visible, positions)
        parts[0] = np.where(np.isnan(parts[0]), plain, parts[0])
        spread = region_method(kriging, interval=INTERVAL)(visible, positions)
        return tuple(
            np.where(np.isnan(part), other, part) for part, other in zip(parts, (plain, *spread[1:]), strict=True)
        )

    return method


def methods() -> dict:
    found = {name: region_method(predictor) for name, predictor in REGION_BASELINES.items()}
    found["kriging"] = region_method(kriging, interval=INTERVAL)
    slowest = "closed-form fill"
    return {**{name: method for name, method in found.items() if name != slowest}, slowest: found[slowest]}


def store(records: pd.DataFrame, task: _task.RegionTask, name: str, about: str = "") -> None:
    document = {
        "method": name,
        "about": about,
        "task_version": task.version,
        "versions": {package: version(package) for package in ("stimage", "numpy", "scipy")},
        "columns": list(records.columns),
    }
    rows = records.drop(columns="seconds").round(6).assign(seconds=records["seconds"].round(2))[document["columns"]]
    values = rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
    text = json.dumps(document, indent=1).removesuffix("\n}") + ',\n "records": [\n'
    text += ",\n".join(json.dumps(row) for row in values) + "\n]}\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name.replace(' ', '_').replace(',', '')}.json").write_text(text)


def stored(name: str) -> bool:
    return (RESULTS / f"{name.replace(' ', '_').replace(',', '')}.json").exists()


def short() -> None:
    slides = {f"simulated {number}": adata for number, adata in enumerate(simulated_study())}
    task = drawn(slides, dict.fromkeys(slides, (4,)))
    task = _task.task_from_json(_task.task_to_json(task))
    records = [submit(method, slides, name=name, task=task) for name, method in methods().items()]
    print(pd.concat(records).groupby("method")[["mse", "excess", "pearson", "coverage"]].mean().round(3).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        short()
        return
    if arguments.draw:
        task = drawn(read(arguments.data, list(SIZES)), SIZES)
        Path(_task.__file__).with_name("task.json").write_text(_task.task_to_json(task))
        return
    if not arguments.page:
        task = region_task()
        slides = read(arguments.data, list(task.by_name))
        for name, method in methods().items():
            if not stored(name):
                store(submit(method, slides, name=name), task, name)
        if not stored(OURS):
            model = sti.pretrained.load()
            seen = set(model.manifest["slides"]["name"])
            new = {name: adata for name, adata in slides.items() if name not in seen}
            about = "genes that the checkpoint does not know: closed-form fill, bounds of kriging"
            store(submit(checkpoint(model), new, name=OURS), task, OURS, about)
    write_tables()


if __name__ == "__main__":
    main()
