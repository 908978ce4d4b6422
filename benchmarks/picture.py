"""The picture of README.md: two sections of human cortex, annotated layers beside the domains found without training.

python benchmarks/picture.py --data ../shared/data     # docs/_static/domains.png
python benchmarks/picture.py --short                   # simulated, seconds, writes nothing
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata
import matplotlib

matplotlib.use("Agg")
from _studies import read_study, simulated_study
from PIL import Image
from sklearn.metrics import adjusted_rand_score

import stimage as sti

OUTPUT = Path("docs/_static/domains.png")


def domains_of(slides: list) -> anndata.AnnData:
    """Both slides in one AnnData, with domains found for them together."""
    start = time.perf_counter()
    sti.tl.embed(slides, "closed")  # nothing that was learned from these sections
    together = anndata.concat(slides, index_unique="-")
    sti.pp.compact_grid(together, slide_key="slide")
    known = together.obs["label"].notna()
    sti.tl.domains(together, together.obs["label"].nunique())
    print(f"{together.n_obs} spots: {time.perf_counter() - start:.1f} s")
    for name, part in together.obs[known].groupby("slide", observed=True):
        print(f"{name}: adjusted Rand index {adjusted_rand_score(part['label'], part['stimage_domain']):.2f}")
    return together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    together = domains_of(simulated_study() if arguments.short else read_study(arguments.data, "DLPFC"))
    figure = sti.pl.domains(together, color=["label", "stimage_domain"])
    if arguments.short:
        return
    figure.savefig(OUTPUT, dpi=110, bbox_inches="tight")
    # A few flat colours: a palette takes a tenth of the space.
    Image.open(OUTPUT).convert("RGB").quantize(128).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
