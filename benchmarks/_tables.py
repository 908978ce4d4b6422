"""Write the tables of README.md and docs/results.md from the stored results.

python benchmarks/_tables.py            # rewrites what stands between <!-- table: NAME --> and <!-- end -->
python benchmarks/_tables.py --check    # only says whether they are up to date (exit status)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/results.md")
PROTOCOLS = {
    "random 20/80 k-NN accuracy": "20/80 accuracy",
    "random 20/80 k-NN ARI": "20/80 ARI",
    "other section k-NN accuracy": "other section accuracy",
    "unsupervised ARI": "unsupervised ARI",
}


def read(name: str) -> dict:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())


def cell(entry: dict | None, *, deviation: bool = True) -> str:
    if entry is None:
        return "–"
    text = f"{entry['mean']:.3f}"
    return f"{text} ± {entry['sd']:.3f}" if deviation else text


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def dlpfc_domains() -> str:
    table = read("dlpfc")["domains"]
    body = [[name, *(cell(metrics[key]) for key in PROTOCOLS)] for name, metrics in table.items()]
    return rows(["embedding", *PROTOCOLS.values()], body)


def dlpfc_regions(metric: str) -> str:
    results = read("dlpfc")["regions"]
    sizes = list(next(iter(results.values())))
    methods = list(next(iter(next(iter(results.values())).values())))
    body = [
        [slide, method, *(cell(by_size[size][method].get(metric), deviation=False) for size in sizes)]
        for slide, by_size in results.items()
        for method in methods
    ]
    return rows(["section", "method", *(f"r = {size}" for size in sizes)], body)


def slides_table() -> str:
    results = read("slides")["slides"]
    body = []
    for slide, methods in results.items():
        for method, metrics in methods.items():
            body.append([slide, method, *(cell(metrics.get(key)) for key in METRICS)])
    return rows(["slide", "embedding", *METRICS.values()], body)


METRICS = {key: PROTOCOLS[key] for key in PROTOCOLS if key != "other section k-NN accuracy"}
TABLES = {
    "dlpfc domains": dlpfc_domains,
    "dlpfc regions mse": lambda: dlpfc_regions("mse"),
    "dlpfc regions mae": lambda: dlpfc_regions("mae"),
    "dlpfc regions pearson": lambda: dlpfc_regions("pearson"),
    "slides": slides_table,
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
