from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _keys, _validate
from stimage._count_rows import row_blocks
from stimage._counts import stored_matrix
from stimage.benchmark._domains import CLUSTERING_METRICS, HEADS, Head, Protocol, annotation, evaluate_domains
from stimage.benchmark._leaks import EvaluatedSlide, find_leaks
from stimage.benchmark._report import Report
from stimage.benchmark.baselines._embedding import NOT_FITTED, embedding_baselines
from stimage.benchmark.heads._knn import N_NEIGHBORS
from stimage.data import site_positions
from stimage.models._smoothed_pca import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Slide

_PACKAGES = ("stimage", "numpy", "scipy", "scikit-learn", "torch", "scanpy")


def compare(
    adatas: AnnData | Sequence[AnnData],
    *,
    use_rep: str | Sequence[str] = (_keys.REPRESENTATION,),
    label_key: str,
    layer: str | None = None,
    slide_key: str | None = None,
    donor_key: str | None = None,
    grid_key: str = _keys.GRID,
    n_pool_genes: int = 2000,
    protocols: Sequence[Protocol] | None = None,
    heads: Sequence[Head] = HEADS,
    n_repeats: int = 10,
    n_seeds: int = 5,
    n_seeds_estimated: int = 1,
    clusterings: Sequence[str] = ("kmeans",),
    clustering_metrics: Sequence[str] = CLUSTERING_METRICS,
    n_neighbors: int = N_NEIGHBORS,
    mlp_epochs: int = 800,
    seed: int = 0,
    allow_leak: bool = False,
) -> Report:
    """Compare embeddings in AnnData, of any origin, with each other and with the baselines; see :func:`evaluate_domains`.

    Baselines are those of :func:`embedding_baselines`: of more than 50,000 observations raw expression is none of them.

    Parameters
    ----------
    adatas
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid`, with raw counts. Nothing is written.
    use_rep
        Keys in ``obsm`` of the embeddings, which every AnnData must have.
    label_key
        Key in ``obs`` of the annotated domains; missing or empty labels are never scored.
    layer
        Layer with raw counts; ``X`` by default.
    slide_key
        Key in ``obs`` of each observation's slide; by default the one that the grid was built with.
    donor_key
        Key in ``obs`` of who the tissue is from.
    grid_key
        ``key_added`` of the grid.
    n_pool_genes
        Highly variable genes of the baselines, chosen by :func:`stimage.pp.select_genes`.
    protocols, heads, n_repeats, n_seeds, n_seeds_estimated, clusterings, clustering_metrics, n_neighbors, mlp_epochs, seed
        As in :func:`evaluate_domains`.
    allow_leak
        Score embeddings of models that were trained on a tested slide or donor, and mark them as transductive.

    Returns
    -------
    Report
        Scores of the baselines and of each embedding, with hashes of the inputs, versions and training slides.

    Warns
    -----
    UserWarning
        If it is not known whether a model was trained on a tested slide.

    Raises
    ------
    KeyError
        If a grid, an embedding, labels or another key is missing; names the embedding and the slides.
    ValueError
        If counts are not raw, or a model was trained on a tested slide or its donor (unless ``allow_leak``).

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> options = {"protocols": ["block"], "heads": ["knn"], "n_repeats": 2}
    >>> report = sti.benchmark.compare(adata, use_rep="cell_types", label_key="domain", **options)
    >>> report.table("block", "ari", "knn").shape
    (8, 2)
    """
    from stimage.models._setup import check_setup, corpus_of

    adatas = _validate.check_anndatas(adatas)
    use_rep = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
    for adata in adatas:
        check_setup(adata, setup)
        _validate.check_obs_key(adata, label_key, "label_key")
    corpus = corpus_of(adatas, n_pool_genes=n_pool_genes, setup=setup, in_memory=False)
    sources = [adatas[number] for number in corpus.source]
    embeddings = {key: _embedding(sources, corpus.slides, key) for key in use_rep}

    labels = [adata.obs[label_key].iloc[slide.observation_index] for adata, slide in zip(sources, corpus, strict=True)]
    labels = [np.asarray(part, dtype=object) for part in labels]
    annotated = [annotation(part)[1].any() for part in labels]
    tested = [
        _test_slide(adata, slide, layer, grid_key)
        for adata, slide, known in zip(sources, corpus, annotated, strict=True)
        if known
    ]
    unknown = [slide.name for slide in tested if not slide.donor] if donor_key is not None else []
    if unknown:
        raise ValueError(
            f"adata.obs[{donor_key!r}] (`donor_key`) is missing for annotated slides {_validate.listing(unknown)}: fill it in."
        )
    trained = {key: _models(sources, corpus.slides, key) for key in use_rep}
    leaks, unsure = {}, {}
    for key, models in trained.items():
        seen = [slide for model in models or [] for slide in model["slides"]]
        leaks[key], unsure[key] = find_leaks(tested, seen)
    # A closed form that was fitted to the tested slides knows of them what the baselines know: it is marked as they are.
    refused = {key: found for key, found in leaks.items() if found and not _is_closed_form(sources, key)}
    for key in use_rep:
        known, doubted = find_leaks(tested, _seen_by_predictor(sources, key))
        if known:
            refused[key] = leaks[key] = known
        unsure[key] = [*unsure[key], *doubted]
    if refused and not allow_leak:
        lines = [f"{key!r} on {_join(found)}" for key, found in refused.items()]
        raise ValueError(
            f"`use_rep` has embeddings of models that were trained on what they would be tested on: {'; '.join(lines)}. "
            "Test on other slides, or pass `allow_leak=True` to have them marked as transductive."
        )
    doubtful = [f"{key!r} on {_join(found)}" for key, found in unsure.items() if found and not leaks[key]]
    if doubtful:
        warnings.warn(
            f"Whether these were trained on what they are tested on cannot be told: {'; '.join(doubtful)}. "
            '`report.metadata["transductive"]` is None for them: make sure that the slides are others.',
            UserWarning,
            stacklevel=2,
        )

    slides = np.concatenate([np.repeat(slide.name, len(slide.observation_index)) for slide in corpus])
    donors = np.concatenate([np.repeat(slide.donor, len(slide.observation_index)) for slide in corpus])
    baselines = _baselines(corpus.slides, seed)
    positions = baselines["coordinates only"]
    options = {
        "protocols": None if protocols is None else list(protocols),
        "heads": list(heads),
        "n_repeats": n_repeats,
        "n_seeds": n_seeds,
        "n_seeds_estimated": n_seeds_estimated,
        "clusterings": list(clusterings),
        "clustering_metrics": list(clustering_metrics),
        "n_neighbors": n_neighbors,
        "seed": seed,
        "mlp_epochs": mlp_epochs,
    }
    records = evaluate_domains(
        {**baselines, **embeddings},
        labels=np.concatenate(labels),
        slides=slides,
        positions=positions,
        donors=donors if donor_key is not None else None,
        **options,
    )
    metadata = {
        "slides": {
            slide.name: _hashes(adata, slide, part, layer)
            for adata, slide, part in zip(sources, corpus, labels, strict=True)
        },
        "versions": {package: version(package) for package in _PACKAGES},
        "parameters": {**options, "label_key": label_key, "n_genes": len(corpus.genes)},
        "transductive": {
            **{name: name not in NOT_FITTED for name in baselines},
            **{key: _transductive(trained[key], leaks[key], unsure[key]) for key in use_rep},
        },
        "models": trained,
    }
    return Report(records, metadata)


def _embedding(sources: list[AnnData], slides: list[Slide], key: str) -> np.ndarray:
    absent = [slide.name for adata, slide in zip(sources, slides, strict=True) if key not in adata.obsm]
    if absent:
        available = sorted({name for adata in sources for name in adata.obsm})
        raise KeyError(
            f"`use_rep`={key!r} is not in adata.obsm of slides {_validate.listing(absent)}; available: "
            f"{_validate.listing(available, 30)}."
        )
    parts = [
        _validate.check_representation(adata, key)[slide.observation_index]
        for adata, slide in zip(sources, slides, strict=True)
    ]
    widths = {slide.name: part.shape[1] for slide, part in zip(slides, parts, strict=True)}
    if len(set(widths.values())) > 1:
        raise ValueError(f"`use_rep`={key!r} has another number of dimensions in other slides: {widths}.")
    return np.concatenate(parts)


def _baselines(slides: list[Slide], seed: int) -> dict[str, np.ndarray]:
    """Baselines of the observations, computed on sites, in the normalisation of our own models."""
    slides = [slide.to_target_sum(TARGET_SUM) for slide in slides]
    names = np.repeat([slide.name for slide in slides], [slide.n_sites for slide in slides])
    positions = [site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity) for slide in slides]
    # Baselines see all slides together.
    matrices = [
        slide.expression if sparse.issparse(slide.expression) else slide.expression.in_memory() for slide in slides
    ]
    expression = matrices[0] if len(matrices) == 1 else sparse.vstack(matrices, format="csr")
    starts = np.cumsum([0, *(slide.n_sites for slide in slides[:-1])])
    site = np.concatenate([start + slide.site_of_observation for start, slide in zip(starts, slides, strict=True)])
    table = embedding_baselines(expression, names, np.concatenate(positions), seed=seed)
    return {name: vectors[site] for name, vectors in table.items()}


def _transductive(models: list[dict[str, Any]] | None, leaks: list[str], unsure: list[str]) -> bool | None:
    """Whether a representation's models saw a tested slide; None when that is not known."""
    if leaks:
        return True
    return None if models is None or unsure else False


def _models(sources: list[AnnData], slides: list[Slide], key: str) -> list[dict[str, Any]] | None:
    """Models that computed a representation with what they were trained on; None when it is from elsewhere."""
    models: dict[str, dict[str, Any]] = {}
    for adata, slide in zip(sources, slides, strict=True):
        entry = adata.uns.get(_keys.STIMAGE, {}).get(key)
        if entry is None or "manifest" not in entry:
            return None
        model = models.setdefault(
            str(entry["model_id"]),
            {
                "model_id": str(entry["model_id"]),
                "stimage_version": str(entry["stimage_version"]),
                **json.loads(entry["manifest"]),
                "embedded": [],
            },
        )
        model["embedded"].append(slide.name)
    return list(models.values())


def _seen_by_predictor(sources: list[AnnData], key: str) -> list[dict[str, Any]]:
    """Slides whose tissue or predictor a closed form was made with: its genes, or predictions in it, are from them."""
    entries = [adata.uns.get(_keys.STIMAGE, {}).get(key) or {} for adata in sources]
    noted = ("predictor_manifest", "tissue_manifest")
    manifests = {str(entry[name]) for entry in entries for name in noted if entry.get(name)}
    return [slide for manifest in sorted(manifests) for slide in json.loads(manifest)["slides"]]


def _is_closed_form(sources: list[AnnData], key: str) -> bool:
    entries = [adata.uns.get(_keys.STIMAGE, {}).get(key) or {} for adata in sources]
    return all(entry.get("model") == "SmoothedPCA" for entry in entries)


def _test_slide(adata: AnnData, slide: Slide, layer: str | None, grid_key: str) -> EvaluatedSlide:
    from stimage.data.slides._slide import slide_coordinates
    from stimage.models._setup import library_size_hash

    counts = adata.X if layer is None else adata.layers[layer]
    coordinates = slide_coordinates(adata, grid_key)
    return EvaluatedSlide(
        name=slide.name,
        donor=slide.donor,
        counts_sha256=library_size_hash(slide),
        names=adata.obs_names[slide.observation_index].to_numpy(),
        counts=_rows(counts, slide.observation_index),
        genes=adata.var_names.to_numpy(),
        coordinates=None if coordinates is None else coordinates[slide.observation_index],
    )


def _rows(counts: Any, observations: np.ndarray) -> sparse.csr_matrix:
    """Rows of counts; the matrix itself where these are all, in order."""
    whole = len(observations) == counts.shape[0] and (np.diff(observations) == 1).all()
    return sparse.csr_matrix(counts if whole else counts[observations])


def _hashes(adata: AnnData, slide: Slide, labels: np.ndarray, layer: str | None) -> dict[str, Any]:
    counts = stored_matrix(adata, layer)
    digest = hashlib.sha256(str((len(slide.observation_index), adata.n_vars)).encode())
    lengths = [np.diff(block.indptr) for block in _canonical_blocks(counts, slide.observation_index)]
    digest.update(np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]).tobytes())
    for part, kind in (("indices", np.int64), ("data", np.float64)):
        for block in _canonical_blocks(counts, slide.observation_index):
            digest.update(getattr(block, part).astype(kind).tobytes())
    text, known = annotation(labels)
    return {
        "n_spots": len(labels),
        "n_annotated": int(known.sum()),
        "donor": slide.donor,
        "counts_sha256": digest.hexdigest(),
        "labels_sha256": hashlib.sha256("\n".join(text).encode()).hexdigest(),
    }


def _canonical_blocks(counts: Any, observations: np.ndarray) -> Iterator[sparse.csr_matrix]:
    """Rows of counts some at a time, each value stored once and no zeros."""
    for _, block in row_blocks(counts, observations):
        block = block.copy()
        block.sum_duplicates()
        block.eliminate_zeros()
        yield block


def _join(found: list[str]) -> str:
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
