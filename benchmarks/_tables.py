"""Write the tables of README.md and docs/*.md from the stored results.

python benchmarks/_tables.py            # rewrites what stands between <!-- table: NAME --> and <!-- end -->
python benchmarks/_tables.py --check    # only says whether they are up to date (exit status)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _checkpoint_tables import TABLES as CHECKPOINT_TABLES
from _many_slides_tables import TABLES as MANY_SLIDES_TABLES
from _multi_scale_tables import TABLES as MULTI_SCALE_TABLES
from _peer_tables import TABLES as PEER_TABLES
from _region_tables import TABLES as REGION_TABLES
from _scoreboard_tables import TABLES as SCOREBOARD_TABLES
from _simulation_tables import TABLES as SIMULATION_TABLES
from _speed_tables import TABLES as SPEED_TABLES
from _trained_tables import TABLES as TRAINED_TABLES
from _units_tables import TABLES as UNITS_TABLES
from _uses_tables import TABLES as USES_TABLES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/model_card.md",
    "docs/region_leaderboard.md",
    "docs/what_we_tried.md",
    "docs/user_guide/corpus.md",
    "docs/user_guide/simulated_tissue.md",
)


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, deviation: float | None = None) -> str:
    if value is None or np.isnan(value):
        return "–"
    text = f"{value:.3f}"
    return text if deviation is None or np.isnan(deviation) else f"{text} ± {deviation:.3f}"


def paper_protocol() -> str:
    document = json.loads((RESULTS / "paper_protocol.json").read_text())
    body = [["the paper, best of its windows", ".753", ".580", ".775", ".595"]]
    for method, heads in document["scores"].items():
        cells = [heads[head][metric] for head in ("mlp", "knn") for metric in ("accuracy", "ari")]
        body.append([method, *(number(cell["mean"], cell["sd"]) for cell in cells)])
    return rows(["DLPFC", "MLP accuracy", "MLP ARI", "k-NN accuracy", "k-NN ARI"], body)


def region_scores(metric: str, results: str = "regions.json") -> pd.DataFrame:
    """A row for each slide, window, region and method; the seeds of a model have one name."""
    frame = pd.DataFrame(json.loads((RESULTS / results).read_text())["scores"])
    frame["method"] = frame["method"].str.replace(r", seed \d+$", "", regex=True)
    return frame.assign(**{metric: frame[metric].astype(float)})


def regions(metric: str, results: str = "regions.json") -> str:
    frame = region_scores(metric, results)
    frame = frame[frame["window_size"] == 30]
    means = frame.groupby(["slide", "method", "region_size"])[metric].mean().unstack()
    body = [[*index, *(number(value) for value in means.loc[index])] for index in means.index]
    return rows(["section", "method", *(f"r = {size}" for size in means.columns)], body)


def alignment() -> dict:
    return json.loads((RESULTS / "alignment.json").read_text())


def alignment_expression(part: str) -> str:
    """Scores by method and section left out; seeds of a model are means with their spread."""
    frame = pd.DataFrame(alignment()[part]["scores"])
    frame["method"] = frame["method"].str.replace(r", seed \d+$", "", regex=True)
    splits, methods = frame["split"].unique(), frame["method"].unique()
    body = []
    for method in methods:
        rows_of = frame[frame["method"] == method]
        by_split = [rows_of[rows_of["split"] == split] for split in splits]
        cells = [f"{number(one['mse'].mean())}/{number(one['pearson'].mean())}" for one in by_split]
        means = [np.mean([one[metric].mean() for one in by_split]) for metric in ("mse", "mae", "pearson")]
        body.append([method, *cells, *(number(float(mean)) for mean in means)])
    return rows(["MSE/Pearson", *splits, "mean MSE", "mean MAE", "mean Pearson"], body)


def alignment_recall() -> str:
    document = alignment()
    body = []
    parts = {
        "section left out": document["leave-one-section-out"]["recall"],
        "the same, trained on shuffled pairs": document["shuffled pairs"],
        "patient left out": document["leave-one-patient-out"]["recall"],
    }
    for part, entries in parts.items():
        for name, seeds in entries.items():
            cells = []
            for level in ("spot", "niche"):
                found = [entry[level] for entry in seeds.values()]
                mean = np.mean([entry["recall"] for entry in found])
                cells += [number(float(mean)), f"{mean / found[0]['chance']:.1f}"]
            chance = next(iter(seeds.values()))["spot"]["chance"]
            body.append([part, name.replace("img-her2st_", ""), number(chance), *cells])
    header = ["pairs", "training to test", "chance", "spot", "over chance", "niche", "over chance"]
    return rows(header, body)


def alignment_domains() -> str:
    parts = {"": "domains", ", the paper's weights": "domains with the paper's weights"}
    frame = pd.concat([pd.DataFrame(alignment()[part]).assign(suffix=suffix) for suffix, part in parts.items()])
    others = np.where(frame["section"] == frame["training"], "", ", trained on other patients")
    frame["case"] = frame["section"] + others + frame["suffix"]
    cases = frame["case"].unique()
    body = []
    for method in frame["method"].unique():
        scores = [frame[(frame["case"] == case) & (frame["method"] == method)]["ari"] for case in cases]
        body.append([method, *(number(float(part.mean()), float(part.std())) for part in scores)])
    return rows(["unsupervised ARI", *cases], body)


def alignment_ablations() -> str:
    document = json.loads((RESULTS / "alignment_ablation.json").read_text())
    body = []
    for name, entries in document["rows"].items():
        cells = []
        for level in ("spot", "niche"):
            found = [entry["recall"][level] for entry in entries if level in entry.get("recall", {})]
            cells.append(f"{np.mean([one['recall'] / one['chance'] for one in found]):.1f}" if found else "–")
        for method in ("retrieval", "regression"):
            found = [entry[method] for entry in entries if method in entry]
            scores = [number(float(np.mean([one[metric] for one in found]))) for metric in ("mse", "pearson") if found]
            cells.append("/".join(scores) or "–")
        for section in document["labelled"]:
            ari = np.array([entry["ari"][section] for entry in entries])
            cells.append(number(float(ari.mean()), float(ari.std(ddof=1))))
        body.append([name, *cells])
    header = ["variant", "recall, spot", "recall, niche", "retrieval", "regression", "ARI, olfactory bulb", "ARI, A1"]
    return rows(header, body)


def alignment_genes_only() -> str:
    frame = pd.DataFrame(alignment()["genes only"])
    body = [
        [level, number(float(part["ari"].mean()), float(part["ari"].std()))]
        for level, part in frame.groupby("level", sort=False)
    ]
    return rows(["level", "unsupervised ARI, DLPFC_151673"], body)


def image_encoders() -> str:
    entries = json.loads((RESULTS / "encoders.json").read_text())["encoders"]
    body = [[entry["encoder"], str(entry["width"]), f"{entry['parameters'] / 1e6:.1f} M"] for entry in entries]
    return rows(["encoder", "width", "parameters"], body)


TABLES: dict[str, Callable[[], str]] = {
    "paper protocol": paper_protocol,
    "regions mse": lambda: regions("mse"),
    "regions excess": lambda: regions("excess"),
    "regions pearson": lambda: regions("pearson"),
    "regions unseen mse": lambda: regions("mse", "regions_unseen.json"),
    "regions unseen excess": lambda: regions("excess", "regions_unseen.json"),
    "alignment sections": lambda: alignment_expression("leave-one-section-out"),
    "alignment patients": lambda: alignment_expression("leave-one-patient-out"),
    "alignment recall": alignment_recall,
    "alignment domains": alignment_domains,
    "alignment ablations": alignment_ablations,
    "alignment genes only": alignment_genes_only,
    "image encoders": image_encoders,
    **CHECKPOINT_TABLES,
    **MANY_SLIDES_TABLES,
    **MULTI_SCALE_TABLES,
    **PEER_TABLES,
    **REGION_TABLES,
    **SCOREBOARD_TABLES,
    **SIMULATION_TABLES,
    **SPEED_TABLES,
    **TRAINED_TABLES,
    **UNITS_TABLES,
    **USES_TABLES,
}


def main() -> None:
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        new = re.sub(
            r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
            lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}",
            text,
            flags=re.DOTALL,
        )
        if new != text:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        sys.exit(f"Not up to date with docs/results: {', '.join(stale)}. Run python benchmarks/_tables.py")


if __name__ == "__main__":
    main()
