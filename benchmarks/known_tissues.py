"""Write down how much each gene varies in the tissues of a folder, for slides of other donors to be recognised by.

    python benchmarks/known_tissues.py --data ../shared/data    # src/stimage/pretrained/tissues; a minute on one core
    python benchmarks/known_tissues.py --short                  # simulated, seconds, writes nothing

The folder holds <name>/<name>.h5ad with raw counts; uns["source"] says where they are from. No label is used. Slides with fewer
than a thousand genes, which are panels or were reduced to few, are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretrain_human import STUDIES as HUMAN
from pretrain_human import read_slides, simulate_slides

from stimage.pretrained import KnownTissues

TISSUES = {
    "human prefrontal cortex": "DLPFC",
    "developing human heart": "heart",
    "HER2-positive breast cancer": "breast cancer, her2st",
    "breast cancer on legacy arrays": "breast cancer, legacy arrays",
    "breast cancer on Visium": "breast cancer, Visium",
    "fetal human colon": "fetal colon",
    "human colon": "colon",
    "human lymph node": "lymph node",
    "hepatocellular carcinoma": "liver",
    "prostate cancer": "prostate",
    "mouse olfactory bulb": "olfactory bulb",
    "mouse cerebellum": "cerebellum",
}
"""Study of each tissue."""
STUDIES = {**HUMAN, "olfactory bulb": ("img-MOB*",), "cerebellum": ("pf-slideseq_cerebellum",)}
FEWEST_GENES = 1_000
OUTPUT = Path("src/stimage/pretrained/tissues")


def tissues_of(studies: Mapping[str, Sequence], left_out: Sequence[str] = ()) -> KnownTissues:
    """The tissues of some studies, without slides that have one of some texts in their name."""
    slides = {
        tissue: [
            adata
            for adata in studies.get(study, [])
            if adata.n_vars >= FEWEST_GENES and not any(part in str(adata.obs["slide"].iloc[0]) for part in left_out)
        ]
        for tissue, study in TISSUES.items()
    }
    return KnownTissues.from_anndata({tissue: adatas for tissue, adatas in slides.items() if adatas})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        known = KnownTissues.from_anndata({"simulated": [a for adatas in simulate_slides().values() for a in adatas]})
        with tempfile.TemporaryDirectory() as scratch:
            known.save(Path(scratch) / "genes")
        print(f"{known.variance.shape[1]} genes of {known.tissues}")
        return
    known = tissues_of(read_slides(arguments.data, None, STUDIES))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    known.save(OUTPUT / "genes")
    for tissue, slides, variance in zip(known.tissues, known.slides, known.variance, strict=True):
        donors = {slide["donor"] for slide in slides}
        print(f"{tissue}: {len(slides)} slides of {len(donors)} donors, {(variance >= 0).sum():,} genes")
    size = sum(path.stat().st_size for path in OUTPUT.iterdir())
    print(f"Wrote {OUTPUT}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
