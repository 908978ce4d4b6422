"""``python -m stimage``: what is done once for many files, without writing Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stimage._paths import path_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Words of the command line; those of the process by default.

    Returns
    -------
    int
        The exit status: 1 if the command could not be done, for reasons that it names.
    """
    options = _parser().parse_args(arguments)
    try:
        return _corpus(options)
    except (FileExistsError, FileNotFoundError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        print(f"stimage: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stimage", description="Spatial transcriptomics as multi-channel images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    corpus = commands.add_parser(
        "corpus",
        help="build a corpus from a local copy of STimage-1K4M or HEST-1k",
        description="Build a corpus of the slides that pass a filter, and split it. Called again, it goes on where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    corpus.add_argument("source", metavar="SOURCE", help="folder of the copy")
    corpus.add_argument("out", metavar="OUT", help="folder of the corpus")
    corpus.add_argument("--species", help="species to keep, e.g. human")
    corpus.add_argument("--technology", nargs="+", help="technologies to keep, e.g. Visium")
    corpus.add_argument("--tissue", nargs="+", help="tissues to keep")
    corpus.add_argument("--min-spots", type=int, default=50, help="least number of spots")
    corpus.add_argument("--genes", metavar="FILE", help="vocabulary: a text file with a gene on each line")
    corpus.add_argument("--n-genes", type=int, default=2000, help="size of the vocabulary without --genes")
    corpus.add_argument("--min-slides", type=int, help="slides that must measure a gene; half of them by default")
    corpus.add_argument("--target-sum", type=float, default=1000.0, help="stored as log1p of counts per this number")
    corpus.add_argument(
        "--splits-by", choices=("donor", "study"), help="what may not be on two sides; no splits by default"
    )
    corpus.add_argument("--validation-size", type=float, default=0.1, help="share of sites for validation")
    corpus.add_argument("--test-size", type=float, default=0.1, help="share of sites for testing")
    corpus.add_argument("--seed", type=int, default=0, help="seed of the splits")
    return parser


def _corpus(options: argparse.Namespace) -> int:
    from stimage.pp import build_public_corpus

    genes = None
    if options.genes is not None:
        genes = [line.strip() for line in path_of(options.genes).read_text().splitlines() if line.strip()]
    corpus = build_public_corpus(
        options.source,
        options.out,
        species=options.species,
        technology=options.technology,
        tissue=options.tissue,
        min_spots=options.min_spots,
        genes=genes,
        n_pool_genes=options.n_genes,
        min_slides=options.min_slides,
        target_sum=options.target_sum,
        splits_by=options.splits_by,
        validation_size=options.validation_size,
        test_size=options.test_size,
        seed=options.seed,
    )
    print(f"{corpus} in {options.out!r}; every slide of the collection is in {str(Path(options.out) / 'slides.csv')!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
