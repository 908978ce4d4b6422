"""Labels completed from a small annotated area, and intervals of reconstructed regions: how far both can be trusted.

    python benchmarks/uses.py --data ../shared/data     # docs/results/uses.json; needs the cache of domains.py
    python benchmarks/uses.py --short                   # simulated, seconds, writes nothing

Annotation: --share of a slide's labelled spots, those nearest to a corner or to a random spot ("block") or to a line through the
middle ("strip"), give their labels to the rest, with each head, on embeddings and on principal components averaged over
neighbours. Accuracy is over all other labelled spots, and over those whose label the annotated area has. No model sees labels;
all have seen the counts of the slides.

Intervals: squares of r x r sites are hidden in the whole slide, --places of each size, and the intervals of what is filled in are
compared with what was measured; the model was pretrained on the same two sections.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from _studies import simulated_study

import stimage as sti
from stimage import benchmark
from stimage.data import Corpus, site_positions
from stimage.models._annotation import HEADS, label_probabilities
from stimage.models._setup import corpus_of
from stimage.models.regions._intervals import prediction_intervals
from stimage.models.regions._region import random_block

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Slide

ANNOTATED = ("DLPFC_151673", "STARmap_mPFC_BZ9", "her2st_A1")
REGIONS = ("DLPFC_151673", "DLPFC_151674")
MOST_VARIABLE = 512


def read(folder: Path, name: str) -> AnnData:
    adata = anndata.read_h5ad(folder / name / f"{name}.h5ad")
    adata.obs["slide"] = name
    sti.pp.compact_grid(adata, slide_key="slide")
    return adata


def embeddings(adata: AnnData, cache: Path, adapt_epochs: int) -> dict[str, np.ndarray]:
    """Vectors of the closed form, alone and with the checkpoint, of what was trained or adapted, and of the baselines."""
    name = adata.obs["slide"].iloc[0]
    rows = {"stimage, closed form": "closed", "stimage, with the checkpoint": "human"}
    found = {row: sti.tl.embed(adata, model, copy=True).obsm["X_stimage"] for row, model in rows.items()}
    stored = sorted(cache.glob("DLPFC.patch.*.npz")) if name.startswith("DLPFC") else []
    for path in stored:
        with np.load(path) as arrays:
            found[f"stimage, trained on the study, seed {path.stem.split('.')[-1]}"] = arrays[name]
    if not stored:
        adapted = sti.tl.embed(adata, "human", adapt_epochs=adapt_epochs, copy=True)
        found["stimage, adapted to the slide"] = adapted.obsm["X_stimage"]
    return found | baselines(adata)


def baselines(adata: AnnData) -> dict[str, np.ndarray]:
    genes = sti.pp.select_genes(adata, n_genes=min(2000, adata.n_vars)).genes
    slide = Corpus.from_anndata(adata, genes=np.asarray(genes))[0]
    order = slide.site_of_observation  # spots, and cells of a bin together
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)[order]
    table = benchmark.embedding_baselines(slide.expression[order], np.zeros(adata.n_obs), positions)
    kept = ("coordinates only", "PCA-30, mean of 7", "PCA-30, mean of 19")
    return {name: table[name] for name in kept}


def annotated_areas(positions: np.ndarray, share: float, n_random: int) -> Iterator[tuple[str, np.ndarray]]:
    """Shape and members of areas: blocks in the four corners and around random spots, strips at four angles."""
    n = max(round(share * len(positions)), 2)
    scaled = (positions - positions.min(axis=0)) / np.ptp(positions, axis=0)
    corners = [int(((scaled - corner) ** 2).sum(axis=1).argmin()) for corner in np.ndindex(2, 2)]
    others = np.random.default_rng(0).choice(len(positions), n_random, replace=False)
    for kind, spots in (("corner", corners), ("block", others)):
        for spot in spots:
            yield kind, np.argsort(((positions - positions[spot]) ** 2).sum(axis=1), kind="stable")[:n]
    for angle in np.deg2rad([0, 45, 90, 135]):
        across = (positions - positions.mean(axis=0)) @ [-np.sin(angle), np.cos(angle)]
        yield "strip", np.argsort(np.abs(across), kind="stable")[:n]


def calibration_error(probabilities: np.ndarray, right: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error: difference of confidence and accuracy, averaged over ten bins of confidence."""
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


def annotation(adata: AnnData, table: dict[str, np.ndarray], share: float, n_random: int) -> pd.DataFrame:
    labelled = np.flatnonzero(adata.obs["label"].notna().to_numpy())
    codes, names = pd.factorize(adata.obs["label"].iloc[labelled].astype(str), sort=True)
    positions = np.asarray(adata.obsm["X_grid"][labelled], dtype=float) * np.ptp(adata.obsm["spatial"], axis=0)
    records = []
    for place, (shape, area) in enumerate(annotated_areas(positions, share, n_random)):
        seen = np.unique(codes[area])
        if len(seen) < 2:  # nothing to tell apart
            continue
        known = np.full(adata.n_obs, -1)
        known[labelled[area]] = codes[area]
        asked = np.setdiff1d(np.arange(len(labelled)), area)
        for embedding, vectors in table.items():
            for head in HEADS:
                probabilities = label_probabilities(vectors, known, len(names), head=head)[labelled[asked]]
                right = probabilities.argmax(axis=1) == codes[asked]
                among = np.isin(codes[asked], seen)
                records.append(
                    {
                        "slide": adata.obs["slide"].iloc[0],
                        "shape": shape,
                        "embedding": embedding,
                        "head": head,
                        "place": place,
                        "n_labelled": len(area),
                        "n_labels_seen": len(seen),
                        "accuracy": right.mean(),
                        "accuracy_of_seen_labels": right[among].mean(),
                        "calibration_error": calibration_error(probabilities[among], right[among]),
                    }
                )
    return pd.DataFrame(records)


def intervals(model: sti.models.STImage, slide: Slide, sizes: tuple[int, ...], n_places: int) -> pd.DataFrame:
    records = []
    for size in sizes:
        for place in range(n_places):
            hidden = np.zeros(slide.n_sites, dtype=bool)
            hidden[slide.site_of_observation[random_block([slide], size, place)]] = True
            filled, *bounds = model.reconstruct(slide, hidden, interval=0.9)
            scored = slide.active[hidden]
            truth = slide.expression[np.flatnonzero(hidden)[scored]].toarray()
            visible = slide.expression[slide.active & ~hidden].toarray()
            # Without a prediction: one interval for each gene.
            same = np.zeros((1, visible.shape[1]))
            marginal = prediction_intervals(np.zeros_like(visible), visible, same, share=0.9)
            variable = np.argsort(-visible.var(axis=0), kind="stable")[:MOST_VARIABLE]
            for name, genes in (("all", np.flatnonzero(slide.measured)), (f"{MOST_VARIABLE} most variable", variable)):
                values = truth[:, genes]
                for method, (lower, upper) in {
                    "model": [bound[scored][:, genes] for bound in bounds],
                    "marginal": [bound[:, genes] for bound in marginal],
                }.items():
                    inside, zero = (values >= lower) & (values <= upper), values == 0
                    records.append(
                        {
                            "slide": slide.name,
                            "size": size,
                            "genes": name,
                            "method": method,
                            "place": place,
                            "share_zero": zero.mean(),
                            "coverage": inside.mean(),
                            "coverage_zero": inside[zero].mean(),
                            "coverage_nonzero": inside[~zero].mean(),
                            "coverage_of_genes_5_percent": np.quantile(inside.mean(axis=0), 0.05),
                            "width": np.broadcast_to(upper - lower, values.shape).mean(),
                        }
                    )
    return pd.DataFrame(records)


def summary(records: pd.DataFrame, keys: list[str]) -> list[dict]:
    """Mean and standard deviation over places."""
    groups = records.drop(columns="place").groupby(keys, sort=False)
    table = groups.mean().join(groups.std(ddof=0).add_suffix("_sd")).round(4)
    table.insert(0, "n_places", groups.size())
    table = table.reset_index()
    return table.astype(object).where(table.notna(), None).to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/uses.json"))
    parser.add_argument("--share", type=float, default=0.05, help="labelled spots of an annotated area")
    parser.add_argument("--places", type=int, default=4, help="regions of each size")
    parser.add_argument("--blocks", type=int, default=6, help="blocks around random spots, beside the corners")
    parser.add_argument("--adapt-epochs", type=int, default=40)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        slides = simulated_study()[:1]
        options = {"window": 8, "n_pool_genes": 200, "max_epochs": 1, "model_kwargs": {"n_genes": 64}}
        model = sti.tl.pretrain(slides, trainer_kwargs={"enable_progress_bar": False}, **options)
        sti.tl.embed(slides[0], model)
        table = {"stimage": slides[0].obsm["X_stimage"], **baselines(slides[0])}
        labels = annotation(slides[0], table, 0.2, 1)
        bounds = intervals(model, corpus_of(slides, model.vocabulary)[0], (4,), 1)
    else:
        labels = pd.DataFrame()
        for name in ANNOTATED:
            adata = read(arguments.data, name)
            table = embeddings(adata, arguments.cache, arguments.adapt_epochs)
            labels = pd.concat([labels, annotation(adata, table, arguments.share, arguments.blocks)])
            print(f"{name}: annotated", flush=True)
        model = sti.models.STImage.load(arguments.cache / "DLPFC.patch.0")
        corpus = corpus_of([read(arguments.data, name) for name in REGIONS], model.vocabulary)
        bounds = pd.concat([intervals(model, slide, (8, 18), arguments.places) for slide in corpus])
    labels = summary(labels, ["slide", "shape", "embedding", "head"])
    bounds = summary(bounds, ["slide", "size", "genes", "method"])
    for part in (labels, bounds):
        print(pd.DataFrame(part).to_string())
    if not arguments.short:
        document = {
            "command": "python benchmarks/uses.py",
            "share": arguments.share,
            "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
            "annotation": labels,
            "intervals": bounds,
        }
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
