"""Spatial domains on every labelled slide: our models beside the baselines, under every protocol.

    python benchmarks/domains.py train --data ../shared/data     # embeddings to --cache (resumes where it stopped)
    python benchmarks/domains.py score --data ../shared/data     # docs/results/domains/<study>.json
    python benchmarks/domains.py --short                         # simulated, seconds, writes nothing

Each study's slides are pretrained on together, without labels, with default settings, once for each seed: embeddings are
transductive, as those of the baselines are. Other sample units are measured by units.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _studies import STUDIES, largest_window, read_study, simulated_study

import stimage as sti


def train(slides: list, study: str, cache: Path, seed: int, **options) -> None:
    """Pretrain on a study and store one file with the embeddings of its slides and the model's training slides."""
    path = cache / f"{study}.patch.{seed}.npz"
    if path.exists():
        return
    options = {"window": largest_window(slides, 16), **options}
    start = time.perf_counter()
    training = {"enable_progress_bar": False}
    model = sti.tl.pretrain(slides, seed=seed, trainer_kwargs=training, **options)
    training_seconds = time.perf_counter() - start
    arrays = {}
    start = time.perf_counter()
    for adata in slides:
        sti.tl.embed(adata, model, seed=seed)
        arrays[adata.obs["slide"].iloc[0]] = adata.obsm["X_stimage"]
    facts = {
        "training_seconds": training_seconds,
        "embedding_seconds": time.perf_counter() - start,
        "n_tokens_seen": model.n_tokens_seen,
        "uns": {key: value for key, value in slides[0].uns["stimage"]["X_stimage"].items() if not callable(value)},
    }
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays, facts=json.dumps(facts, default=str))
    model.save(cache / f"{study}.patch.{seed}", overwrite=True)
    print(f"{study}, seed {seed}: {training_seconds:.0f} s", flush=True)


def attach(slides: list, study: str, cache: Path) -> tuple[list[str], dict]:
    """Write every stored embedding of a study to its slides; their keys, and the facts of each."""
    facts = {}
    for path in sorted(cache.glob(f"{study}.patch.*.npz")):
        key = f"stimage patch, seed {path.stem.removeprefix(f'{study}.patch.')}"
        with np.load(path) as arrays:
            facts[key] = json.loads(str(arrays["facts"]))
            for adata in slides:
                adata.obsm[key] = arrays[adata.obs["slide"].iloc[0]]
                adata.uns["stimage"] = {**adata.uns.get("stimage", {}), key: facts[key]["uns"]}
    return list(facts), facts


def score(slides: list, study: str, cache: Path, output: Path | None, **options) -> sti.benchmark.Report:
    """Compare the stored embeddings with the baselines; one report for each study."""
    keys, facts = attach(slides, study, cache)
    report = sti.benchmark.compare(slides, use_rep=keys, label_key="label", allow_leak=True, **options)
    report.metadata["training"] = {key: {k: v for k, v in fact.items() if k != "uns"} for key, fact in facts.items()}
    if output is not None:
        report.to_json(output / f"{study.replace(' ', '_')}.json")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("train", "score"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/domains"))
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--heads", nargs="+", default=["knn"], choices=("knn", "mlp"))
    parser.add_argument("--cluster-seeds", type=int, default=2, help="seeds of the mixture, for each seed of a model")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        slides = simulated_study()
        with tempfile.TemporaryDirectory() as cache:
            options = {"window": 8, "n_pool_genes": 200, "model_kwargs": {"n_genes": 64}, "max_epochs": 1}
            train(slides, "simulated", Path(cache), 0, **options)
            report = score(slides, "simulated", Path(cache), None, n_repeats=2, n_seeds=1, mlp_epochs=2)
        print(report.mean_over_slides("leave_slide_out", "accuracy", "knn"))
        return
    if arguments.step is None:
        parser.error("say `train`, `score` or `--short`")
    for study in arguments.studies:
        slides = read_study(arguments.data, study)
        if arguments.step == "train":
            for seed in arguments.seeds:
                train(slides, study, arguments.cache, seed)
        else:
            options = {"heads": arguments.heads, "n_seeds": arguments.cluster_seeds}
            score(slides, study, arguments.cache, arguments.output, **options)
            print(f"{study}: scored", flush=True)


if __name__ == "__main__":
    main()
