"""Pretrain the checkpoint that ships with the package, on every human slide of a folder.

    python benchmarks/pretrain_human.py --data ../shared/data --output src/stimage/pretrained/human
    python benchmarks/pretrain_human.py --without DLPFC,heart --output /tmp/without     # for honest tests on these
    python benchmarks/pretrain_human.py --refit-readout                                 # the weights stay, minutes
    python benchmarks/pretrain_human.py --short                                         # simulated, seconds, writes nothing

The folder holds <name>/<name>.h5ad with raw counts; uns["source"] says where they are from. The output is a checkpoint in
half precision with its manifest (slides, fingerprints, donors) and MODEL_CARD.md. No label is used. --refit-readout fits scale
and codes of the checkpoint in the output folder anew, on the slides that it was trained on.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

import stimage as sti
from stimage.train import load_checkpoint, save_checkpoint

STUDIES = {
    "DLPFC": ("DLPFC_151[0-9][0-9][0-9]*", "DLPFC_Br8325_ant"),
    # heart_dev_1_CN73_E1 holds the spots of heart_dev_2_CN73_E2 once more.
    "heart": ("heart_dev_[234]*",),
    "breast cancer, her2st": ("her2st_*",),
    "breast cancer, legacy arrays": ("breast_ST_*",),
    "breast cancer, Visium": ("breast_visium_*",),
    "breast cancer, Xenium": ("breast_xenium_*",),
    "fetal colon": ("colon_fetal_*",),
    "colon": ("colon_visium_*",),
    "lymph node": ("pf-visium_lymph_*",),
    "liver": ("HCC1_*",),
    "prostate": ("prostate_*",),
    "bone marrow": ("bonemarrow_*",),
    "lung": ("lung_cancer_*",),
}
LEAST_MEAN = 0.02
"""Counts per observation that a gene needs in a study to be chosen for it: the variance of fewer is noise."""


def donor_of(name: str, source: dict) -> str:
    """Donor of a slide. Embryos of the heart atlas are not stated: its sections count as one, to be on the safe side."""
    if "donor" in source:
        return str(source["donor"])
    if name.startswith("her2st_"):
        return f"her2st patient {name.removeprefix('her2st_')[0]}"
    return "heart_dev, embryo not stated" if name.startswith("heart_dev_") else name


def read_slides(
    folder: Path, without: str | None, patterns_of: Mapping[str, Sequence[str]] = STUDIES
) -> dict[str, list]:
    import anndata

    studies = {}
    for study, patterns in patterns_of.items():
        names = sorted(
            path.name
            for path in folder.iterdir()
            if any(fnmatch(path.name, pattern) for pattern in patterns)
            and not (without and any(part in path.name for part in without.split(",")))
        )
        slides = []
        for name in names:
            adata = anndata.read_h5ad(folder / name / f"{name}.h5ad")
            slides.append(prepare(adata, name, donor_of(name, adata.uns["source"])))
        if slides:
            studies[study] = slides
    if not studies:
        raise SystemExit(f"--data {folder} has no human slide, or --without {without!r} leaves none.")
    return studies


def simulate_slides() -> dict[str, list]:
    slides = [sti.datasets.simulate_tissue(n_rows=20, n_cols=18, n_genes=300, seed=seed) for seed in (0, 1)]
    for adata in slides:
        adata.uns["source"] = {"study": "simulated", "repo": "", "licence": ""}
    return {f"study {number}": [prepare(adata, f"slide{number}", "")] for number, adata in enumerate(slides)}


def prepare(adata, name: str, donor: str):
    adata.obs["slide"], adata.obs["donor"] = name, donor
    sti.pp.compact_grid(adata, slide_key="slide")
    return adata


def choose_genes(studies: dict[str, list], n_genes: int) -> list[str]:
    """The genes that are most variable in any study, among those that two studies measure.

    Each study ranks its genes by itself, whatever the number of its slides: by the standardised variance of the counts,
    and by the variance of the log expression that a model is trained on. A gene's place is its best, so that markers of
    one tissue are chosen although they do not vary in another.
    """
    places, measured = {}, {}
    for study, slides in studies.items():
        # Of many slides, those that lack a gene may have been filtered: a quarter must have it.
        table = sti.pp.select_genes(slides, join="outer", min_slides=max(len(slides) // 4, 1), n_genes=n_genes).table
        measured[study] = pd.Series(True, index=table.index)
        table = table[table["mean"] >= LEAST_MEAN]
        places[study, "counts"] = pd.Series(np.arange(len(table)), index=table.index)
        by_variance = log_variance(slides)[table.index].sort_values(ascending=False, kind="stable")
        places[study, "log"] = pd.Series(np.arange(len(table)), index=by_variance.index)
    known = pd.DataFrame(measured).notna().sum(axis=1)
    best = pd.DataFrame(places).min(axis=1)
    best = best[known[best.index] >= min(2, len(studies))].rename("place").rename_axis("gene").reset_index()
    return best.sort_values(["place", "gene"])["gene"].head(n_genes).tolist()


def log_variance(slides: list) -> pd.Series:
    """Variance of each gene's log1p of counts per 10,000: median over the slides that measure it."""
    variances = []
    for adata in slides:
        (slide,) = sti.data.Corpus.from_anndata(adata, genes=adata.var_names)
        expression = slide.expression[slide.active]
        squares = np.asarray(expression.multiply(expression).mean(axis=0)).ravel()
        variances.append(pd.Series(squares - slide.gene_mean**2, index=adata.var_names))
    return pd.concat(variances, axis=1).median(axis=1)


def model_card(model, studies: dict[str, list], corpus, arguments: argparse.Namespace, seconds: float) -> str:
    rows = []
    slides = {slide.name: slide for slide in corpus}
    for study, adatas in studies.items():
        for adata in adatas:
            name, source = adata.obs["slide"].iloc[0], adata.uns["source"]
            measured = int(slides[name].measured.sum())
            facts = [name, study, adata.obs["donor"].iloc[0], adata.n_obs, f"{measured:,}"]
            rows.append([*facts, source["study"], source["repo"], source["licence"]])
    header = [
        "slide",
        "study",
        "donor",
        "spots",
        "genes of the vocabulary",
        "publication",
        "counts from",
        "licence stated",
    ]
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows])
    n_spots = sum(adata.n_obs for adatas in studies.values() for adata in adatas)
    loss = model.history["train_loss"].iloc[:, 0]
    left_out = f" Slides with `{arguments.without}` in their name were left out." if arguments.without else ""
    return f"""# Model card: `human`

A masked autoencoder (`stimage.models.STImage`) pretrained without labels on {n_spots:,} spots of {len(rows)} human tissue
sections from {len(studies)} studies, for `stimage.tl.embed` and `stimage.tl.reconstruct_region` without training.{left_out}

| | |
|---|---|
| model id | `{model.model_id}` |
| parameters | {sum(parameter.numel() for parameter in model.module.parameters()):,}, stored in half precision |
| genes | {len(model.genes):,} symbols, {len(model.vocabulary.ensembl_ids):,} of them with their Ensembl id |
| window | {model.spec.window} x {model.spec.window} sites, {model.spec.n_genes} genes, {model.spec.mask_ratio:.0%} of the sites hidden |
| training | {arguments.epochs} epochs, AdamW at {model.optimizer.learning_rate:g}, seed {arguments.seed} |
| training loss | {loss.iloc[0]:.4f} in the first epoch, {loss.iloc[-1]:.4f} in the last |
| time | {timedelta(seconds=round(seconds))} |
| versions | {", ".join(f"{package} {version(package)}" for package in ("stimage", "torch", "numpy", "scanpy"))} |

Written by `python benchmarks/pretrain_human.py --epochs {arguments.epochs} --seed {arguments.seed} --genes {arguments.genes}\
{f" --without {arguments.without}" if arguments.without else ""}`.

## Use and limits

- For human tissue measured with spots on a lattice. Predictions for a tissue that is not below are extrapolation:
  `stimage.tl.embed(adata)` tests them without labels and uses them only if they explain enough; `model="closed"` leaves
  them out, `model="human"` always uses them, and `model="human", adapt_epochs=...` trains a copy on your slides first.
- Slides of other species match by gene symbols only, where orthologs have the same symbol.
- Scores on the slides below, and on other sections of their donors, are not scores on unseen data. The manifest in
  `config.json` names slides and donors; embeddings that use the checkpoint carry it in `uns["stimage"]`.
- Slides measure different genes; those that a slide does not measure were left out of its windows.

## Vocabulary

Genes with at least {LEAST_MEAN:g} counts per spot were ranked within each study, by the standardised variance of their
counts (Stuart et al. 2019) and by the variance of log1p of counts per 10,000, and taken in the order of their best place
in any study, among genes that at least two studies measure.

## Training data

Weights were computed from these data; the data themselves are not part of the package.

{table}
"""


def refit_readout(checkpoint: Path, studies: dict[str, list]) -> None:
    """Fit scale and codes of a checkpoint anew and save it in its place; weights of the module and manifest stay."""
    weights, config = load_checkpoint(checkpoint, kind="STImage")
    module = {name: tensor for name, tensor in weights.items() if name.startswith("module.")}
    del config["weights_sha256"]
    slides = [adata for adatas in studies.values() for adata in adatas]
    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(scratch, kind="STImage", weights=module, config=config)
        model = sti.models.STImage.load(scratch, slides)
    names, trained_on = [slide.name for slide in model.corpus], model.manifest["slides"]["name"].tolist()
    if sorted(names) != sorted(trained_on):
        raise SystemExit(f"{checkpoint} was trained on other slides: {sorted(set(names) ^ set(trained_on))}.")
    model.fit_readout()
    model.save(checkpoint, overwrite=True, half_precision=True)
    path = checkpoint / "MODEL_CARD.md"
    model_id = sti.models.STImage.load(checkpoint).model_id
    card = re.sub(r"(?m)^\| model id \| .* \|$", f"| model id | `{model_id}` |", path.read_text(encoding="utf-8"))
    path.write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("src/stimage/pretrained/human"))
    parser.add_argument("--without", help="leave out slides whose name has one of these in it, separated by commas")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--genes", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refit-readout", action="store_true")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    options = {}
    if arguments.short:
        arguments.epochs, arguments.genes = 1, 200
        options = {"window": 8, "batch_size": 8, "model_kwargs": {"n_genes": 64}}
        options["trainer_kwargs"] = {"windows_per_epoch": 16}
    studies = simulate_slides() if arguments.short else read_slides(arguments.data, arguments.without)
    if arguments.refit_readout:
        refit_readout(arguments.output, studies)
        return
    slides = [adata for adatas in studies.values() for adata in adatas]
    genes = choose_genes(studies, arguments.genes)
    corpus = sti.data.Corpus.from_anndata(slides, genes=genes, donor_key="donor")
    for slide in corpus:
        print(f"{slide.name}: {slide.n_sites} sites, {slide.measured.sum()} of {len(genes)} genes", flush=True)
    start = time.perf_counter()
    model = sti.tl.pretrain(corpus, max_epochs=arguments.epochs, seed=arguments.seed, **options)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "human" if arguments.short else arguments.output
        model.save(output, overwrite=True, half_precision=True)
        model = sti.models.STImage.load(output)
        card = model_card(model, studies, corpus, arguments, seconds)
        (output / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        if arguments.short:
            refit_readout(output, studies)
        size = sum(path.stat().st_size for path in output.iterdir())
    print(card if arguments.short else f"Wrote {output}: {size / 1e6:.1f} MB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
