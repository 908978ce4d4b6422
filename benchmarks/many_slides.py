"""One set of domains over several slides of a study: the closed form as it is, and after Harmony.

    python benchmarks/many_slides.py --data ../shared/data     # docs/results/many_slides.json; needs stimage[batch]
    python benchmarks/many_slides.py --short                   # simulated, seconds, writes nothing

All slides of a study are embedded together and clustered together, with the number of labels of the study; each slide is scored on its
own. Harmony brings slides together without labels. In a study of one donor slides should mix, those of different tumours should not.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from _studies import STUDIES, read_study, simulated_study

import stimage as sti
from stimage.benchmark import adjusted_rand_index, batch_mixing, evaluate_domains
from stimage.models.clustering import cluster

OUTPUT = Path("docs/results/many_slides.json")


def score(adatas: list) -> dict[str, dict]:
    import harmonypy

    sti.tl.embed(adatas, model="closed")
    vectors = np.concatenate([adata.obsm["X_stimage"] for adata in adatas])
    slides = np.concatenate([adata.obs["slide"].to_numpy(dtype=str) for adata in adatas])
    truth = pd.Series(np.concatenate([adata.obs["label"].to_numpy(dtype=object) for adata in adatas]))
    known = truth.notna().to_numpy()
    positions = np.concatenate([adata.obsm["X_grid"] for adata in adatas])
    harmony = harmonypy.run_harmony(vectors, pd.DataFrame({"slide": slides}), "slide", verbose=False)
    rows = {"stimage": vectors, "stimage, Harmony": harmony.Z_corr}
    records = evaluate_domains(
        rows, labels=truth, slides=slides, positions=positions, protocols=["leave_slide_out"], heads=["knn"]
    )
    accuracy = records[records["slide"] != "pooled"].set_index(["method", "slide"])["accuracy"]
    found = {}
    for name, values in rows.items():
        labels = cluster(np.asarray(values), truth[known].nunique()).labels
        of_slides = {}
        for slide in dict.fromkeys(slides):
            here = known & (slides == slide)
            of_slides[slide] = {
                "leave-slide-out accuracy": round(float(accuracy[name, slide]), 5),
                "ARI of joint domains": round(adjusted_rand_index(truth[here], labels[here]), 5),
            }
        mixing = {key: round(float(value), 5) for key, value in batch_mixing(values, slides).items()}
        found[name] = {"mixing": mixing, "slides": of_slides}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if missing := [package for package in ("harmonypy", "scib_metrics") if find_spec(package) is None]:
        message = f"{' and '.join(missing)} missing: pip install 'stimage[batch]'"
        if not arguments.short:
            parser.error(message)
        print(f"Left out, {message}")
        return
    if arguments.short:
        print(score(simulated_study()))
        return
    studies = {}
    for study, names in STUDIES.items():
        if len(names) > 1:
            studies[study] = score(read_study(arguments.data, study))
            print(study, {name: entry["mixing"] for name, entry in studies[study].items()}, flush=True)
    versions = {package: version(package) for package in ("stimage", "harmonypy", "scib-metrics", "scikit-learn")}
    document = {"command": "python benchmarks/many_slides.py", "versions": versions, "studies": studies}
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
