"""The paper's ablations on the two DLPFC sections: window size, genes in training and at inference, masking and lattice.

    python benchmarks/paper_tables.py --data ../shared/data     # docs/results/paper_tables.json (skips what is there); half an hour on one core
    python benchmarks/paper_tables.py --short                   # simulated, seconds, writes nothing

Every variant is trained on both sections together, without labels, for the same 200 steps of two windows; those "at equal tokens" for as
many steps as it takes to see as many spots as windows of 16. All are read out alike (`mode="visible"`), without codes and
without the closed form. The methods x datasets table of the paper is scored by scoreboard.py, its MLP head by
paper_protocol.py, its sample units by units.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from _small_trainings import Records, score, targets_of_a_sample, train
from _studies import read_study, simulated_study

import stimage as sti
from stimage.data import Corpus, Slide, select_window_genes
from stimage.models._setup import corpus_of
from stimage.models.embedding._inference import gene_variance

BASE = "window 16, 256 genes, weighted, sites masked"
VARIANTS: dict[str, dict] = {
    BASE: {},
    **{f"window {window}": {"window": window} for window in (8, 24, 30)},
    **{f"window {window}, equal tokens": {"window": window} for window in (8, 30)},
    **{f"genes: {selection}": {"gene_selection": selection} for selection in ("hvg", "random")},
    "single values masked": {"masking": "site_gene"},
    "rank lattice": {"layout": "rank"},
    **{f"window {window}": {"window": window} for window in (14, 20, 26)},
    **{f"{n_genes} genes": {"n_genes": n_genes} for n_genes in (128, 512)},
}
GIVEN = {f"given at inference: {selection}": selection for selection in ("weighted", "hvg", "random")}
"""Genes that :data:`BASE` sees at inference, as many as in training; it sees all of them otherwise."""
WINDOWS_PER_STEP = 2


def with_genes(slide: Slide, selection: str, n_genes: int, seed: int) -> Slide:
    """A slide of which some genes are given, chosen by their variance on it; libraries stay those of all genes."""
    candidates, variance = np.flatnonzero(slide.measured), gene_variance(slide)
    chosen = select_window_genes(
        variance[candidates], n_genes, method=selection, rng=np.random.default_rng([seed, len(candidates)])
    )
    given = np.zeros(len(slide.measured), dtype=bool)
    given[candidates[chosen]] = True
    return replace(
        slide, expression=slide.expression.multiply(given).tocsr(), centre=slide.gene_mean * given, measured=given
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/paper_tables.json"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    n_steps, seeds, n_repeats = (2, 1, 2) if arguments.short else (200, 3, 10)
    base = {"window": 8, "n_genes": 64} if arguments.short else {"window": 16, "n_genes": 256}
    slides = simulated_study() if arguments.short else read_study(arguments.data, "DLPFC")
    corpora = {"auto": corpus_of(slides, n_pool_genes=2000)}
    records = Records(
        None if arguments.short else arguments.output, command="python benchmarks/paper_tables.py", n_steps=n_steps
    )
    targets = targets_of_a_sample(sti.models.STImage(corpora["auto"], **base))
    for name in arguments.variants:
        # Windows of the simulated slides are small in the short form, whatever their size.
        variant = {"layout": "auto", **base, **VARIANTS[name], **(base if arguments.short else {})}
        layout = variant.pop("layout")
        if layout not in corpora:
            others = [sti.pp.compact_grid(adata, slide_key="slide", layout=layout, copy=True) for adata in slides]
            corpora[layout] = corpus_of(others, n_pool_genes=2000)
        for seed in range(seeds):
            if records.has(variant=name, seed=seed):
                continue
            model = sti.models.STImage(corpora[layout], seed=seed, **variant)
            own = targets_of_a_sample(model)
            steps = max(round(n_steps * targets / own), 1) if name.endswith("equal tokens") else n_steps
            train(model, n_steps=steps, per_step=WINDOWS_PER_STEP)
            facts = {"steps": steps, "targets_per_step": round(WINDOWS_PER_STEP * own, 1)}
            facts["n_tokens_seen"] = model.n_tokens_seen
            rows = {}
            if name == BASE:
                for row, selection in GIVEN.items():
                    given = [with_genes(slide, selection, model.spec.n_genes, seed) for slide in model.corpus]
                    given = Corpus(given, model.corpus.vocabulary)
                    rows[row] = model.get_latent_representation(given, mode="visible")
            # The variant itself comes last: where it is stored, what stands beside it is.
            rows[name] = model.get_latent_representation(mode="visible")
            scored = score(slides, rows, n_repeats=n_repeats)
            for row in rows:
                records.add(variant=row, seed=seed, **facts, scores=scored[row])


if __name__ == "__main__":
    main()
