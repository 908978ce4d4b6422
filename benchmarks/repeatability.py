"""How far the scores of two machines differ for the same seeds: threads and instruction sets are changed, everything else is kept.

    python benchmarks/repeatability.py --data ../shared/data     # docs/results/repeatability.json; some minutes on two cores
    python benchmarks/repeatability.py --short                   # simulated, seconds, writes nothing

Embeddings of one small study are made and scored in a process of their own for each setting, and compared with those of one thread:
closed form, plain average and NichePCA on the one hand, both embeddings of a model after 50 steps on the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from _small_trainings import train
from _studies import largest_window, read_study, simulated_study
from scoreboard import nichepca, parts_of, plain_rows

import stimage as sti
from stimage.benchmark import evaluate_domains
from stimage.models._setup import corpus_of

STUDY = "developing heart"
AVERAGE = "per 1,000, 30 axes, mean of 19"
OUTPUT = Path("docs/results/repeatability.json")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE, TWO = ({name: str(number) for name in THREADS} for number in (1, 2))
# Threads that wait for each other do so without work, so that a busy machine does not take minutes.
TWO["OMP_WAIT_POLICY"] = "PASSIVE"
# Kernels of processors without AVX2 and AVX-512, which add in another order.
OLDER = {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem", "MKL_CBWR": "COMPATIBLE"}
TRAINED = ("context", "visible")
REFERENCE = "one thread"
SETTINGS = {
    REFERENCE: ONE,
    "two threads": TWO,
    "kernels of an older processor": {**ONE, **OLDER},
}
KEYS = ["part", "method", "protocol", "head", "slide"]


def measure(adatas: list, *, n_repeats: int, n_steps: int) -> dict:
    """Vectors of every method, and their accuracy and ARI (mean over splits), by part, method, protocol, head and slide."""
    corpus = corpus_of(adatas, n_pool_genes=2000)
    closed = {
        "stimage": sti.models.SmoothedPCA(corpus).get_latent_representation(corpus),
        AVERAGE: parts_of(corpus, plain_rows(corpus)[AVERAGE]),
        "NichePCA": parts_of(corpus, nichepca(corpus)),
    }
    model = sti.models.STImage(corpus, window=largest_window(adatas, 16), n_genes=256)
    train(model, n_steps=n_steps, per_step=2)
    trained = {mode: model.get_latent_representation(mode=mode) for mode in TRAINED}
    facts = {
        "labels": np.concatenate([adata.obs["label"].to_numpy(dtype=object) for adata in adatas]),
        "slides": np.concatenate([adata.obs["slide"].to_numpy(dtype=str) for adata in adatas]),
        "positions": np.concatenate([adata.obsm["X_grid"] for adata in adatas]),
    }
    protocols = ["leave_slide_out", "block", "random", "unsupervised"]
    options = {"protocols": protocols, "heads": ["knn"], "n_repeats": n_repeats, "n_seeds": 1}
    records = evaluate_domains(closed | trained, **facts, **options, n_seeds_estimated=0)
    records["part"] = np.where(records["method"].isin(list(trained)), "trained", "without training")
    return {"vectors": {**closed, **trained}, "scores": records.groupby(KEYS)[["accuracy", "ari"]].mean()}


def compare(found: dict[str, dict]) -> dict[str, dict]:
    """Largest and mean difference from the reference: of scores by setting and part, of vectors over their root mean square."""
    reference = found[REFERENCE]
    differences: dict[str, dict] = {}
    for setting, measured in found.items():
        if setting != REFERENCE:
            differences[setting] = {
                "vectors": {
                    name: float(np.abs(measured["vectors"][name] - own).max() / np.sqrt(np.square(own).mean()))
                    for name, own in reference["vectors"].items()
                }
            }
            gap = (measured["scores"] - reference["scores"]).abs()
            # A clustering is compared by its adjusted Rand index alone, a classifier by its accuracy.
            clustered = gap.index.get_level_values("protocol") == "unsupervised"
            for part in ("without training", "trained"):
                own = gap.index.get_level_values("part") == part
                values = {"accuracy": gap["accuracy"][own & ~clustered], "ari": gap["ari"][own & clustered]}
                differences[setting][part] = {
                    name: {"largest": float(one.max()), "mean": float(one.mean()), "n": len(one)}
                    for name, one in values.items()
                }
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--measure", type=Path, help="only measure in this process, into this file")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        adatas = simulated_study() if arguments.short else read_study(arguments.data, STUDY)
        sizes = {"n_repeats": 2, "n_steps": 2} if arguments.short else {"n_repeats": 3, "n_steps": 50}
        pd.to_pickle(measure(adatas, **sizes), arguments.measure)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = {name: SETTINGS[name] for name in (REFERENCE, "two threads")} if arguments.short else SETTINGS
        for setting, variables in settings.items():
            path = Path(folder) / "scores.pickle"
            command = [sys.executable, __file__, "--data", str(arguments.data), "--measure", str(path)]
            command += ["--short"] if arguments.short else []
            subprocess.run(command, env={**os.environ, **variables}, check=True)
            found[setting] = pd.read_pickle(path)
    differences = compare(found)
    print(json.dumps(differences, indent=1))
    if not arguments.short:
        versions = {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")}
        content = {"command": "python benchmarks/repeatability.py", "study": STUDY, "versions": versions}
        OUTPUT.write_text(json.dumps({**content, "settings": SETTINGS, "differences": differences}, indent=1) + "\n")


if __name__ == "__main__":
    main()
