"""Hidden regions of the two DLPFC sections, filled in by our models and by the baselines.

    python benchmarks/regions.py --data ../shared/data     # docs/results/regions.json; needs the cache of domains.py
    python benchmarks/regions.py --unseen                  # docs/results/regions_unseen.json
    python benchmarks/regions.py --short                   # simulated, seconds, writes nothing

The models are those that domains.py pretrained on both sections (transductive), one for each seed; with --unseen, the
checkpoint that ships, on a section of another donor that it was not trained on. Regions of r x r sites are hidden in a window,
--places of each size; the 512 most variable genes are filled in from the window's other spots.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _studies import read_slides, read_study, simulated_study
from scipy.spatial import cKDTree

import stimage as sti
from stimage import benchmark
from stimage.data import site_positions
from stimage.models._setup import corpus_of
from stimage.models.embedding._inference import uncentred
from stimage.models.embedding._site_vectors import stream_vectors
from stimage.models.regions._calibration import calibrated_reconstruction

UNSEEN = "DLPFC_Br8325_ant"
N_NEIGHBORS = 16


def neighbors_decoded(model: sti.models.STImage, slide, genes: np.ndarray):
    """The paper's baseline: embeddings of the 16 nearest visible spots, averaged and decoded, calibrated like the model."""
    tree = cKDTree(site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity))
    options = {"tile_size": 2 * model.spec.window, "n_genes": None, "batch_size": 32, "seed": 0}

    def of_region(shown, hidden: np.ndarray) -> np.ndarray:
        scaled = shown.to_target_sum(model.target_sum).hide(hidden)
        vectors = np.zeros((shown.n_sites, model.autoencoder.dim), dtype=np.float32)
        for sites, found in stream_vectors(model.module, scaled, "visible", **options):
            vectors[sites] = found
        visible = np.flatnonzero(scaled.active)
        _, nearest = cKDTree(shown.positions[visible]).query(shown.positions[hidden], k=min(N_NEIGHBORS, len(visible)))
        mean = torch.from_numpy(vectors[visible][nearest].mean(axis=1))
        with torch.inference_mode():
            centred = model.module.genes.decode_all(mean).numpy()
        return uncentred(centred, scaled, shown.hide(hidden))

    def predict(expression: np.ndarray, positions: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        _, site = tree.query(positions)
        mask = np.zeros(slide.n_sites, dtype=bool)
        mask[site[hidden]] = True
        part = slide.restrict(np.isin(slide.raster, site))
        filled = calibrated_reconstruction(of_region, part, mask, seed=0)
        return filled[np.searchsorted(np.flatnonzero(mask), site[hidden])][:, genes]

    return predict


def evaluate(slide, models: dict[str, sti.models.STImage], n_genes: int, **options) -> pd.DataFrame:
    expression = slide.expression[slide.active]
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
    variance -= np.asarray(expression.mean(axis=0)).ravel() ** 2
    genes = np.sort(np.argsort(-variance)[:n_genes])
    predictors = {}
    for name, model in models.items():
        predictors[name] = benchmark.model_predictor(model, slide, genes)
        predictors[f"uncalibrated {name}"] = benchmark.model_predictor(model, slide, genes, calibrated=False)
        predictors[name.replace("stimage", "neighbours' embeddings decoded")] = neighbors_decoded(model, slide, genes)
    records = benchmark.evaluate_regions(
        slide.expression[:, genes],
        site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity),
        slide.site_index,
        library_size=slide.library_size,
        predictors=predictors,
        **options,
    )
    return records.assign(slide=slide.name)


def training_slides(model: sti.models.STImage) -> list[dict]:
    """What a model was trained on: names, donors and hashes of counts."""
    return model.manifest["slides"][["name", "n_sites", "donor", "counts_sha256"]].to_dict("records")


def summary(records: pd.DataFrame) -> dict:
    """Means over places, by slide, window, region and method; seeds of a model are kept apart."""
    columns = ["mse", "mae", "pearson", "floor", "excess"]
    means = records.groupby(["slide", "window_size", "region_size", "method"])[columns].mean().reset_index()
    return means.round(5).astype(object).where(means.notna(), None).to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, help="by default the file named above")
    parser.add_argument("--unseen", action="store_true", help="the checkpoint that ships, on a section new to it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--places", type=int, default=20, help="regions of each size")
    parser.add_argument("--windows", nargs="+", type=int, default=[30], help="sides of the windows around them")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        slides = simulated_study()
        options = {"window": 8, "n_pool_genes": 200, "max_epochs": 1, "model_kwargs": {"n_genes": 64}}
        models = {"stimage": sti.tl.pretrain(slides, trainer_kwargs={"enable_progress_bar": False}, **options)}
        sizes = {"region_sizes": (4,), "window_sizes": (16,), "n_repeats": 2}
    elif arguments.unseen:
        slides = read_slides(arguments.data, (UNSEEN,))
        models = {"stimage": sti.pretrained.load()}
        sizes = {"region_sizes": (4, 8, 10, 14, 16, 18), "window_sizes": (30,), "n_repeats": arguments.places}
    else:
        slides = read_study(arguments.data, "DLPFC")
        stored = {seed: arguments.cache / f"DLPFC.patch.{seed}" for seed in arguments.seeds}
        models = {f"stimage, seed {seed}": sti.models.STImage.load(path) for seed, path in stored.items()}
        sizes = {"region_sizes": (4, 8, 10, 14, 16, 18), "n_repeats": arguments.places}
        sizes |= {"window_sizes": tuple(arguments.windows)}
    corpus = corpus_of(slides, next(iter(models.values())).vocabulary)
    records = pd.concat([evaluate(slide, models, 512, **sizes) for slide in corpus])
    print(records.groupby(["slide", "region_size", "method"])[["mse", "excess", "pearson"]].mean().round(4).to_string())
    if not arguments.short:
        unseen = " --unseen" if arguments.unseen else ""
        document = {
            "command": f"python benchmarks/regions.py{unseen}",
            "places": arguments.places,
            "seeds": [] if arguments.unseen else arguments.seeds,
            "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
            "training": {name: training_slides(model) for name, model in models.items()},
            "scores": summary(records),
        }
        name = "regions_unseen.json" if arguments.unseen else "regions.json"
        (arguments.output or Path("docs/results") / name).write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
