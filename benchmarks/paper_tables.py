"""The paper's ablations on the two DLPFC sections: window size, channels, gene selection, published sizes.

    python benchmarks/paper_tables.py --data ../shared/data     # docs/results/paper_tables.json
    python benchmarks/paper_tables.py --short                   # simulated, seconds, writes nothing

Every variant is pretrained on both sections together, without labels, for --epochs epochs (fewer than the default 40, so
that variants are comparable with each other and not with other tables), and scored by the paper's protocol: 20 % of the
annotated spots of a section train a k-NN head, the others test it; ten random splits. The methods x datasets table of the
paper is scored by domains.py, its MLP head by paper_protocol.py.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

from _studies import read_study, simulated_study
from paper_protocol import score

import stimage as sti

VARIANTS: dict[str, dict] = {
    "window 16, 512 channels, weighted": {},
    **{f"window {window}": {"window": window} for window in (8, 24, 30)},
    **{f"{n_genes} channels": {"model_kwargs": {"n_genes": n_genes}} for n_genes in (128, 256)},
    **{f"genes: {selection}": {"model_kwargs": {"gene_selection": selection}} for selection in ("hvg", "random")},
    "published sizes": {"preset": "paper"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/paper_tables.json"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    slides = simulated_study() if arguments.short else read_study(arguments.data, "DLPFC")
    short = {"window": 8, "n_pool_genes": 200, "max_epochs": 1, "batch_size": 4, "model_kwargs": {"n_genes": 64}}
    training = {"enable_progress_bar": False, **({"windows_per_epoch": 4} if arguments.short else {})}
    results: dict[str, dict] = {}
    for name in arguments.variants:
        variant = VARIANTS[name]
        options = {"max_epochs": arguments.epochs, **variant, **(short if arguments.short else {})}
        start = time.perf_counter()
        model = sti.tl.pretrain(slides, trainer_kwargs=training, **options)
        seconds = time.perf_counter() - start
        for adata in slides:
            sti.tl.embed(adata, model)
        embeddings = {name: [adata.obsm["X_stimage"] for adata in slides]}
        scored = score(slides, embeddings, heads=["knn"], n_repeats=2 if arguments.short else 10)[name]["knn"]
        results[name] = {"training_seconds": seconds, "n_tokens_seen": model.n_tokens_seen, "knn": scored}
        print(name, f"{seconds:.0f} s, accuracy {scored['accuracy']['mean']:.3f}", flush=True)
        if not arguments.short:
            document = {
                "command": "python benchmarks/paper_tables.py",
                "epochs": arguments.epochs,
                "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
                "variants": results,
            }
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
