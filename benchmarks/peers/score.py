"""Score what the peer scripts stored, by the same protocols as stimage's own embeddings.

    python benchmarks/peers/score.py --input INPUT --output OUTPUT --json OUTPUT/peers.json

OUTPUT holds one folder for each peer. Embeddings: tied Gaussian mixture on 15 principal components with the true number
of domains, five seeds of the clustering, and k-NN on five random 20/80 splits. Labels: their agreement with the
annotation, for each seed that was run; of methods that have both, this is their "own clustering".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from stimage import benchmark

SEEDS = range(5)
OURS, OWN = "unsupervised ARI", "own clustering ARI"


def score(result: dict[str, np.ndarray], truth: np.ndarray) -> dict[str, dict]:
    from sklearn.metrics import adjusted_rand_score

    annotated = truth != ""
    scores = {}
    if "labels" in result:
        values = [adjusted_rand_score(truth[annotated], labels[annotated]) for labels in result["labels"]]
        scores[OWN if "embedding" in result else OURS] = values
    if "embedding" in result:
        embedding = result["embedding"]
        splits = [benchmark.random_split_knn(embedding[annotated], truth[annotated], seed=seed) for seed in SEEDS]
        scores |= {
            "random 20/80 k-NN accuracy": [split["accuracy"] for split in splits],
            "random 20/80 k-NN ARI": [split["ari"] for split in splits],
            OURS: [benchmark.unsupervised_ari(embedding, truth, annotated, seed=seed) for seed in SEEDS],
        }
    return {metric: benchmark.mean_and_deviation(values) for metric, values in scores.items()}


def facts(result: dict[str, np.ndarray], digest: str) -> dict:
    """Time, memory and provenance of a run, and whether the wanted number of clusters was reached."""
    if str(result["input_sha256"]) != digest:
        raise ValueError("The result was made from another input: run the peer again.")
    noted = {key: float(result[key]) for key in ("seconds", "cpu_seconds", "peak_mib")}
    noted |= {"package": str(result["package"]), "version": str(result["version"]), "seed": int(result["seed"])}
    if "labels" in result:
        # The time is that of all seeds together.
        noted |= {"n_seeds": len(result["labels"]), "n_found": result["n_found"].tolist()}
    return noted | {"input_sha256": digest}


def main() -> None:
    import hashlib

    import anndata

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()

    document: dict = {}
    print("| slide | peer | 20/80 accuracy | 20/80 ARI | unsupervised ARI | own clustering | seconds | of CPU | MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(arguments.input.glob("*.h5ad")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        truth = anndata.read_h5ad(path).obs["label"].to_numpy().astype(str)
        for stored in sorted(arguments.output.glob(f"*/{path.stem}.npz")):
            peer = stored.parent.name
            with np.load(stored) as archive:
                result = dict(archive)
            entry = facts(result, digest) | {"scores": score(result, truth), "n_domains": len(set(truth) - {""})}
            document.setdefault(path.stem, {})[peer] = entry
            metrics = ("random 20/80 k-NN accuracy", "random 20/80 k-NN ARI", OURS, OWN)
            cells = [f"{entry['scores'][m]['mean']:.3f}" if m in entry["scores"] else "–" for m in metrics]
            cells += [f"{entry[key]:.1f}" for key in ("seconds", "cpu_seconds")] + [f"{entry['peak_mib']:.0f}"]
            print("|", " | ".join([path.stem, peer, *cells]), "|", flush=True)
    arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
