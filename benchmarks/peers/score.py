"""Score what the peer scripts stored, by the same protocols, splits and clusterings as the scoreboard's rows.

    python benchmarks/peers/score.py --input INPUT --output OUTPUT --json docs/results/peers.json

OUTPUT holds one folder for each peer. Embeddings are scored in blocks, on random splits and without labels (k-means, and ten tied
Gaussian mixtures, the model that mclust chooses in the tutorials of STAGATE and GraphST). Labels that a peer returns itself are
compared with the annotation, for each seed that was run. What failed is written beside, with the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

from stimage.benchmark import adjusted_rand_index, evaluate_domains

MIXTURE_SEEDS = 10
COLUMNS = {
    "block accuracy": ("block", "knn", "accuracy"),
    "random 20/80 accuracy": ("random", "knn", "accuracy"),
    "unsupervised ARI": ("unsupervised", "true_number", "ari"),
    "ARI, mixtures (10 seeds)": ("unsupervised", "true_number_gmm", "ari"),
}
"""Called like the columns of the scoreboard, which they are compared with."""
OWN = "own clustering ARI"


def score(result: dict[str, np.ndarray], truth: np.ndarray, sites: np.ndarray) -> dict[str, float | list[float]]:
    """Means over splits and seeds; of the peer's own labels one value for each seed."""
    scores: dict[str, float | list[float]] = {}
    annotated = truth != ""
    if "labels" in result:
        found = [adjusted_rand_index(truth[annotated], labels[annotated]) for labels in result["labels"]]
        scores[OWN] = [round(value, 5) for value in found]
    if "embedding" in result:
        facts = {
            "labels": np.where(annotated, truth.astype(object), None),
            "slides": np.repeat("slide", len(truth)),
            "positions": sites,
            "heads": ["knn"],
        }
        rows = {"peer": result["embedding"]}
        records = evaluate_domains(rows, **facts, protocols=["block", "random"], n_repeats=10).to_dict("records")
        for clustering, n_seeds, suffix in (("kmeans", 1, ""), ("gmm", MIXTURE_SEEDS, "_gmm")):
            options = {"n_seeds": n_seeds, "n_seeds_estimated": 0, "clusterings": [clustering]}
            found = evaluate_domains(rows, **facts, protocols=["unsupervised"], **options)
            records += found.assign(head=found["head"] + suffix).to_dict("records")
        for column, (protocol, head, metric) in COLUMNS.items():
            chosen = [
                one[metric]
                for one in records
                if one["slide"] == "slide" and (one["protocol"], one["head"]) == (protocol, head)
            ]
            scores[column] = round(float(np.mean(chosen)), 5)
    return scores


def facts_of(result: dict[str, np.ndarray], digest: str) -> dict:
    """Time, memory and provenance of a run, and whether the wanted number of clusters was reached."""
    if str(result["input_sha256"]) != digest:
        raise ValueError("The result was made from another input: run the peer again.")
    noted = {key: round(float(result[key]), 1) for key in ("seconds", "cpu_seconds", "peak_mib")}
    noted |= {"package": str(result["package"]), "version": str(result["version"]), "seed": int(result["seed"])}
    if "labels" in result:
        # The time is that of all seeds together.
        noted |= {"n_seeds": len(result["labels"]), "n_found": result["n_found"].tolist()}
    return noted | {"input_sha256": digest}


def reasons(output: Path) -> dict[str, dict[str, str]]:
    """What failed and why, by peer and slide."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(output.glob("*/*.failed.txt")):
        found.setdefault(path.parent.name, {})[path.name.removesuffix(".failed.txt")] = path.read_text().strip()
    return found


def main() -> None:
    import anndata

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("docs/results/peers.json"))
    arguments = parser.parse_args()

    slides: dict = {}
    for path in sorted(arguments.input.glob("*.h5ad")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        adata = anndata.read_h5ad(path)
        truth = adata.obs["label"].to_numpy().astype(str)
        slides[path.stem] = {}
        for stored in sorted(arguments.output.glob(f"*/{path.stem}.npz")):
            with np.load(stored) as archive:
                result = dict(archive)
            scores = score(result, truth, adata.obsm["sites"])
            slides[path.stem][stored.parent.name] = facts_of(result, digest) | {"scores": scores}
            print(path.stem, stored.parent.name, scores, flush=True)
    document = {"slides": slides, "failed": reasons(arguments.output)}
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
