"""Which variables of an AnnData are genes of its species, and which of them a slide measured."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage._count_rows import gene_totals

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_TYPE_COLUMNS = ("feature_types", "feature_type")
_GENES = "gene expression"
_NOT_GENES = re.compile(
    r"antibody|crispr|multiplexing|hashtag|protein|control|codeword|blank|custom|peaks|deprecated|unassigned|spike-in|^adt$"
)
"""Feature types of 10x, Xenium and CELLxGENE, in lower case, that are no genes; biotypes such as "protein_coding" are."""
_CODING = "protein_coding"
_CONTROLS = re.compile(
    r"^(blank[-_ ]?\w*\d+|neg(ative)?[-_]?(control|ctrl|prb|prob)\w*([-_]\w+)*|negative[-_]?\d+|(false|system)(code|control)\w*"
    r"|antisense[-_].+|unassigned(codeword)?[-_]?\d*|deprecated(codeword)?[-_].+|deprecated\w*\d+|intergenic[-_]?region\S*"
    r"|ercc-\d+)$",
    re.IGNORECASE,
)
"""Names of probes and codewords that measure the background: Xenium, CosMx, MERSCOPE, and spike-ins."""
_GENOMES = re.compile(
    r"^(grch3[78]|hg19|hg38|grcm3[89]|mm9|mm10|mm39|rn[67]|mratbn7|rnor_?6|mmul_?10|sscrofa11|grcz1[01]|bdgp6)",
    re.IGNORECASE,
)
_SPECIES = {
    "hg19": "grch",
    "hg38": "grch",
    "mm9": "grcm",
    "mm10": "grcm",
    "mm39": "grcm",
    "mratbn7": "rn",
    "rnor": "rn",
}

_EXPECTED = 20.0
"""Counts that a gene would have on a slide if it were as frequent there as elsewhere; none at all is then no chance."""
_PANEL = 0.05
"""Share of such genes without a count from which the slide's panel is another one, so that all its empty genes are absent."""


def is_gene(adata: AnnData) -> NDArray[np.bool_]:
    """Which variables are genes: not antibodies, guides, control probes, blanks or spike-ins (variables).

    The columns ``feature_types`` and ``feature_type`` of ``var`` say so where they hold "Gene Expression" or a kind of 10x,
    Xenium or CELLxGENE that is none; otherwise names do.
    """
    genes = np.array([_CONTROLS.match(name) is None for name in adata.var_names.astype(str)], dtype=bool)
    for column in (*_TYPE_COLUMNS, "feature_biotype"):
        if column in adata.var:
            kinds = (
                adata.var[column].astype(object).where(adata.var[column].notna(), "").astype(str).str.lower().to_numpy()
            )
            if (kinds == _GENES).any():
                genes &= (kinds == _GENES) | (kinds == "")
            else:
                genes &= [kind == _CODING or _NOT_GENES.search(kind) is None for kind in kinds]
    return genes


def counted_genes(adata: AnnData, counts: Any) -> NDArray[np.bool_]:
    """Which variables are genes of the slide's own species: of several, the one with most counts (variables)."""
    genes = is_gene(adata)
    species = _species(adata, genes)
    if species is None:
        return genes
    totals = gene_totals(counts)[0]
    names = sorted(set(species[genes]) - {""})
    return genes & np.isin(species, [max(names, key=lambda name: totals[genes & (species == name)].sum()), ""])


def genes_with_warning(adata: AnnData, counts: Any) -> NDArray[np.bool_]:
    """As :func:`counted_genes`; warn once, with numbers, of what is left out."""
    genes = counted_genes(adata, counts)
    if genes.all():
        return genes
    others = np.flatnonzero(~genes)
    if len(others) == adata.n_vars:
        raise ValueError(
            f"No variable of `adata` is a gene (e.g. {', '.join(map(repr, adata.var_names[:3]))}; adata.var has "
            f"{', '.join(column for column in _TYPE_COLUMNS if column in adata.var) or 'no feature types'}): pass the "
            "AnnData with gene expression."
        )
    totals = gene_totals(counts)[0]
    share = totals[others].sum() / max(totals.sum(), 1)
    kinds = Counter(_kinds(adata, others))
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    warnings.warn(
        f"{len(others)} of {adata.n_vars} variables are left out of library sizes and gene pools, with {share:.1%} of the "
        f"counts, because they are no genes of the slide's species: {found} (e.g. {', '.join(map(repr, adata.var_names[others[:3]]))}). "
        "Remove them beforehand to choose otherwise.",
        UserWarning,
        stacklevel=3,
    )
    return genes


def keep_genes(counts: Any, genes: NDArray[np.bool_]) -> Any:
    """Counts of genes alone, in a matrix of the same shape: those of other variables are zero."""
    if genes.all():
        return counts
    if sparse.issparse(counts):
        return counts @ sparse.diags(genes.astype(counts.dtype), format="csr")
    return np.where(genes, counts, 0)


def absent_genes(counts: Any, slides: Sequence[NDArray[np.intp]]) -> NDArray[np.bool_]:
    """Which variables each slide of one AnnData did not measure (slides x variables): an outer join leaves zeros there.

    A gene without a single count on a slide is taken as not measured there if the other slides have it so often that 20
    counts or more would be expected; where this holds for a twentieth of the genes that common, the slide has another panel
    and all its genes without counts are taken so. Nothing is lost by it within a slide, where such a gene is the same
    everywhere.

    Parameters
    ----------
    counts
        Raw counts (observations x variables).
    slides
        Positions of the observations of each slide.

    Returns
    -------
    numpy.ndarray
        Boolean; all False for a single slide.
    """
    if len(slides) < 2:
        return np.zeros((len(slides), counts.shape[1]), dtype=bool)
    totals = gene_totals(counts, slides)
    empty = totals == 0
    size = totals.sum(axis=1)
    size_with = size @ ~empty  # counts of the slides that have the gene
    share = np.divide(totals.sum(axis=0), size_with, out=np.zeros(totals.shape[1]), where=size_with > 0)
    common = np.outer(size, share) >= _EXPECTED
    surely = empty & common
    other_panel = surely.sum(axis=1) > _PANEL * common.sum(axis=1)
    return surely | (empty & ~empty.all(axis=0) & other_panel[:, None])


def _kinds(adata: AnnData, variables: NDArray[np.intp]) -> list[str]:
    """What variables are called that are left out, for a message."""
    not_genes = ~is_gene(adata)
    column = next((column for column in _TYPE_COLUMNS if column in adata.var), None)
    kinds = []
    for number in variables:
        said = "" if column is None else str(adata.var[column].iloc[number])
        if not not_genes[number]:
            kinds.append("genes of another species")
        elif said and said.lower() != _GENES and not said.lower() == "nan":
            kinds.append(said)
        else:
            kinds.append("control probes or blanks")
    return kinds


def _species(adata: AnnData, genes: NDArray[np.bool_]) -> NDArray[np.object_] | None:
    """Species of each variable by the genome that its name starts with or ``var["genome"]`` names; None if there is one."""
    sources = [adata.var_names.astype(str)]
    if "genome" in adata.var:
        sources.append(adata.var["genome"].astype(str))
    for names in sources:
        found = [_GENOMES.match(name) for name in names]
        species = np.array(["" if match is None else _species_of(match[1]) for match in found], dtype=object)
        if len(set(species[genes]) - {""}) > 1:
            return species
    return None


def _species_of(genome: str) -> str:
    genome = genome.lower().rstrip("0123456789_") if genome.lower().startswith(("grc", "rn")) else genome.lower()
    return _SPECIES.get(genome, genome)
