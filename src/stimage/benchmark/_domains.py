from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from stimage import _validate
from stimage._labels import text_labels, warn_of_missing_names
from stimage._settings import progress
from stimage.benchmark._scores import classification_scores
from stimage.benchmark._splits import Split, block_split, leave_one_out, random_split
from stimage.benchmark.heads._knn import N_NEIGHBORS, knn_head
from stimage.benchmark.heads._mlp import mlp_head
from stimage.benchmark.metrics._registry import METRICS, check_metrics, score_domains
from stimage.models.clustering import METHODS, cluster

Protocol = Literal["random", "block", "leave_slide_out", "leave_donor_out", "unsupervised"]
Head = Literal["knn", "mlp"]
PROTOCOLS: tuple[Protocol, ...] = ("random", "block", "leave_slide_out", "leave_donor_out", "unsupervised")
HEADS: tuple[Head, ...] = ("knn", "mlp")
POOLED = "pooled"
SPOTS_AT_A_TIME = 65_536
"""Test spots whose vectors are held in double precision together."""
CLUSTERING_METRICS = ("ari", "nmi")
_ARRAYS = ("truth", "found", "positions", "embedding")  # what is known of a clustering


def evaluate_domains(
    embeddings: Mapping[str, np.ndarray],
    *,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    slides: Sequence[str] | np.ndarray,
    positions: np.ndarray,
    donors: Sequence[str] | np.ndarray | None = None,
    protocols: Sequence[Protocol] | None = None,
    heads: Sequence[Head] = HEADS,
    train_share: float = 0.2,
    n_repeats: int = 10,
    n_seeds: int = 5,
    n_seeds_estimated: int = 1,
    clusterings: Sequence[str] = ("kmeans",),
    clustering_metrics: Sequence[str] = CLUSTERING_METRICS,
    seed: int = 0,
    n_neighbors: int = N_NEIGHBORS,
    mlp_epochs: int = 800,
) -> pd.DataFrame:
    """Score embeddings of one slide or several by how well domains can be read off them, in several protocols.

    ``"random"`` trains a head on a random share of the annotated spots of a slide and tests it on the others (the paper's
    protocol), ``"block"`` does so with spatial blocks; both are repeated. ``"leave_slide_out"`` and ``"leave_donor_out"``
    train on the other slides or donors. ``"unsupervised"`` clusters a slide as :func:`stimage.tl.domains` does, with the true
    number of domains and with an estimated one. All methods see the same splits.

    Parameters
    ----------
    embeddings
        Vectors of each method (spots x dimensions).
    labels
        Domain of each spot; a missing one (None, NaN, empty) is not annotated: never trained on or scored.
    slides
        Slide of each spot.
    positions
        Physical positions (spots x 2) within the slide.
    donors
        Who each spot is from; needed to leave donors out.
    protocols
        Which protocols; by default all that the slides and donors allow.
    heads
        ``"knn"`` and ``"mlp"``.
    train_share
        Share of spots or blocks that train in ``"random"`` and ``"block"``.
    n_repeats
        Splits in ``"random"`` and ``"block"``.
    n_seeds
        Seeds of the clustering with the true number of domains.
    n_seeds_estimated
        Seeds of the clustering with an estimated number; 0 for none.
    clusterings
        Methods of :func:`stimage.tl.domains` for the unsupervised scores; the number of domains is estimated with the first.
    clustering_metrics
        Names in ``METRICS`` of what the unsupervised protocol scores, of those that need no expression. Metrics without
        ``truth`` see all spots of a slide.
    seed
        First seed.
    n_neighbors
        Neighbours that vote in ``"knn"``, at most a fifth of the training spots.
    mlp_epochs
        Epochs of the multilayer perceptron; 800 in the paper.

    Returns
    -------
    pandas.DataFrame
        One row for each score: ``method``, ``protocol``, ``head`` (in ``"unsupervised"`` ``"true_number"`` or
        ``"estimated_number"``, with the name of a further clustering behind it), ``slide`` (tested; ``"pooled"``: predictions for all slides scored together),
        ``repeat``, ``n_train``, ``n_test``, ``accuracy``, ``macro_f1``, ``ari``, ``nmi``, ``n_domains`` (clusters found) and
        further metrics that were asked for.

    Raises
    ------
    KeyError
        If a protocol needs donors and there are none.
    ValueError
        If an embedding has no vectors for a slide, lengths differ, nothing is annotated, or a protocol needs more slides.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import evaluate_domains
    >>> rng = np.random.default_rng(0)
    >>> positions, labels = rng.random((200, 2)), np.repeat(["in", "out"], 100)
    >>> vectors = np.repeat([[0.0], [9.0]], 100, axis=0) + rng.normal(size=(200, 2))
    >>> options = {"labels": labels, "slides": np.repeat("a", 200), "positions": positions}
    >>> records = evaluate_domains({"mine": vectors}, **options, protocols=["random"], heads=["knn"], n_repeats=2)
    >>> records[["method", "head", "slide"]].iloc[0].tolist(), float(records["accuracy"].mean())
    (['mine', 'knn', 'a'], 1.0)

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4.
    """
    warn_of_missing_names(labels, "`labels`")
    truth, annotated = annotation(labels)
    slides = np.asarray(slides).astype(str)
    positions = np.asarray(positions, dtype=np.float64)
    donors = None if donors is None else np.asarray(donors).astype(str)
    _check_lengths(len(truth), slides=slides, positions=positions, donors=donors)
    vectors = _check_embeddings(embeddings, slides)
    if not annotated.any():
        raise ValueError("`labels` annotates no spot: there is nothing to score.")
    if POOLED in slides:
        raise ValueError(f"`slides` has a slide called {POOLED!r}, which is what scores over all slides are called.")
    numbers = {"n_repeats": n_repeats, "n_seeds": n_seeds, "n_neighbors": n_neighbors, "mlp_epochs": mlp_epochs}
    for parameter, value in numbers.items():
        _validate.check_positive(parameter, value)
    _validate.check_positive("n_seeds_estimated", n_seeds_estimated, smallest=0)
    _validate.check_range("train_share", train_share, 0, 1)
    _validate.check_seed(seed)
    for head in heads:
        _validate.check_choice("heads", head, HEADS)
    for clustering in clusterings:
        _validate.check_choice("clusterings", clustering, METHODS)
    names = [metric.name for metric in check_metrics(clustering_metrics, _ARRAYS)]
    protocols = _check_protocols(protocols, slides[annotated], None if donors is None else donors[annotated])

    known = np.flatnonzero(annotated)
    tasks: list[tuple[Protocol, str, Any]] = []
    for protocol in protocols:
        if protocol == "unsupervised":
            parts = list(dict.fromkeys(slides[known].tolist()))
        else:
            parts = _splits(protocol, slides, positions, donors, known, train_share, n_repeats, seed)
        tasks += [(protocol, method, part) for method in vectors for part in parts]

    records: list[dict[str, Any]] = []
    predictions: dict[tuple[str, str, str, int], list[tuple[Split, np.ndarray]]] = defaultdict(list)
    for protocol, method, part in progress(tasks, "Evaluating embeddings"):
        if protocol == "unsupervised":
            rows = np.flatnonzero(slides == part)
            seeds = {
                "true_number": range(seed, seed + n_seeds),
                "estimated_number": range(seed, seed + n_seeds_estimated),
            }
            facts = {"method": method, "protocol": protocol, "slide": part}
            arrays = {"truth": truth[rows], "positions": positions[rows], "embedding": vectors[method][rows]}
            records += _cluster(facts, arrays, seeds, clusterings, names)
            continue
        for head in heads:
            found = _predict(head, vectors[method], truth, part, seed, n_neighbors, mlp_epochs)
            for (repeat, split), predicted in zip(part, found, strict=True):
                facts = {"method": method, "protocol": protocol, "head": head, "repeat": repeat}
                records += _scores(facts, split, predicted, truth, slides)
                predictions[method, protocol, head, repeat].append((split, predicted))
    records += _pooled(predictions, truth, slides)
    columns = ["method", "protocol", "head", "slide", "repeat", "n_train", "n_test"]
    metrics = ["accuracy", "macro_f1", "ari", "nmi", "n_domains"]
    return pd.DataFrame(records, columns=list(dict.fromkeys([*columns, *metrics, *names])))


def annotation(labels: Sequence[Any] | np.ndarray | pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Labels as strings, and which spots have one: None, NaN and what reads like them are none."""
    return text_labels(labels)


def _splits(
    protocol: Protocol,
    slides: np.ndarray,
    positions: np.ndarray,
    donors: np.ndarray | None,
    known: np.ndarray,
    train_share: float,
    n_repeats: int,
    seed: int,
) -> list[list[tuple[int, Split]]]:
    """Repetitions and splits that are trained together, as positions among all spots; only annotated spots take part."""
    if protocol == "leave_slide_out":
        return [[(0, _shifted(split, known)) for split in leave_one_out(slides[known])]]
    if protocol == "leave_donor_out":
        return [[(0, _shifted(split, known)) for split in leave_one_out(donors[known], parameter="donors")]]
    groups = []
    for name in dict.fromkeys(slides[known].tolist()):
        rows = known[slides[known] == name]
        options = [{"train_share": train_share, "seed": seed + repeat} for repeat in range(n_repeats)]
        if protocol == "random":
            splits = [random_split(len(rows), **each) for each in options]
        else:
            splits = [block_split(positions[rows], **each) for each in options]
        groups.append([(repeat, _shifted(split, rows)) for repeat, split in enumerate(splits)])
    return groups


def _shifted(split: Split, rows: np.ndarray) -> Split:
    return Split(rows[split.train], rows[split.test], split.name)


def _predict(
    head: Head,
    vectors: np.ndarray,
    truth: np.ndarray,
    repeated: list[tuple[int, Split]],
    seed: int,
    n_neighbors: int,
    mlp_epochs: int,
) -> list[np.ndarray]:
    """Predicted labels of the test spots of each split."""
    found = []
    for repeat, split in repeated:
        training = vectors[split.train].astype(np.float64), truth[split.train]
        if head == "knn":
            blocks = np.array_split(split.test, -(-len(split.test) // SPOTS_AT_A_TIME))
            tested = (vectors[block].astype(np.float64) for block in blocks)
            found.append(np.concatenate([knn_head(*training, one, n_neighbors=n_neighbors) for one in tested]))
        else:
            found.append(mlp_head(*training, vectors[split.test], n_epochs=mlp_epochs, seed=seed + repeat))
    return found


def _scores(
    facts: dict[str, Any], split: Split, predicted: np.ndarray, truth: np.ndarray, slides: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Scores of each tested slide."""
    for name in dict.fromkeys(slides[split.test].tolist()):
        here = slides[split.test] == name
        numbers = {"slide": name, "n_train": len(split.train), "n_test": int(here.sum())}
        yield {**facts, **numbers, **classification_scores(truth[split.test[here]], predicted[here])}


def _pooled(
    predictions: Mapping[tuple[str, str, str, int], list[tuple[Split, np.ndarray]]],
    truth: np.ndarray,
    slides: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Scores of the predictions for all slides together."""
    for key, parts in predictions.items():
        test = np.concatenate([split.test for split, _ in parts])
        if len(np.unique(slides[test])) > 1:
            facts = dict(zip(("method", "protocol", "head", "repeat"), key, strict=True))
            numbers = {"slide": POOLED, "n_train": sum(len(split.train) for split, _ in parts), "n_test": len(test)}
            predicted = np.concatenate([found for _, found in parts])
            yield {**facts, **numbers, **classification_scores(truth[test], predicted)}


def _cluster(
    facts: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    seeds: Mapping[str, range],
    clusterings: Sequence[str],
    metrics: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Scores of the clusters of all spots of a slide."""
    wanted = arrays["truth"][annotation(arrays["truth"])[1]]
    numbers = {"true_number": len(np.unique(wanted)), "estimated_number": None}
    for method in clusterings:
        for head, number in numbers.items():
            if number is None and method != clusterings[0]:
                continue  # numbers are estimated in one way
            for repeat, seed in enumerate(seeds[head]):
                options = {"method": method, "positions": arrays["positions"], "seed": seed, "show_progress": False}
                found = cluster(arrays["embedding"], number, **options).labels
                needed = {array for metric in metrics for array in METRICS[metric].needs} - {"found"}
                given = {array: values for array, values in arrays.items() if array in needed}
                scores = score_domains(**given, found=found, metrics=metrics)
                sizes = {"n_train": 0, "n_test": len(wanted), "n_domains": len(np.unique(found))}
                name = head if method == clusterings[0] else f"{head}_{method}"
                yield {**facts, "head": name, "repeat": repeat, **scores, **sizes}


def _check_lengths(n_spots: int, **arrays: np.ndarray | None) -> None:
    for parameter, array in arrays.items():
        if array is not None and len(array) != n_spots:
            raise ValueError(f"`{parameter}` has {len(array)} rows, `labels` {n_spots}: all need one per spot.")


def _check_embeddings(embeddings: Mapping[str, np.ndarray], slides: np.ndarray) -> dict[str, np.ndarray]:
    if not isinstance(embeddings, Mapping) or not embeddings:
        raise TypeError("`embeddings` must be a dict of at least one method's vectors.")
    checked = {}
    for method, values in embeddings.items():
        values = np.asarray(values)
        # Single precision stays: rows are converted when they are used.
        values = values if values.dtype == np.float32 else values.astype(np.float64, copy=False)
        if values.ndim != 2 or len(values) != len(slides) or not values.shape[1]:
            raise ValueError(
                f"`embeddings[{method!r}]` has shape {values.shape}, {len(slides)} rows (one per spot) are needed."
            )
        absent = np.unique(slides[~np.isfinite(values).all(axis=1)])
        if len(absent):
            raise ValueError(
                f"`embeddings[{method!r}]` has no finite vectors for spots of slides {_validate.listing(absent)}: embed them "
                "or leave these slides out."
            )
        checked[str(method)] = values
    return checked


def _check_protocols(
    protocols: Sequence[Protocol] | None, slides: np.ndarray, donors: np.ndarray | None
) -> list[Protocol]:
    n_slides = len(np.unique(slides))
    n_donors = 0 if donors is None else len(np.unique(donors))
    if protocols is None:
        possible = {"leave_slide_out": n_slides > 1, "leave_donor_out": n_donors > 1}
        return [protocol for protocol in PROTOCOLS if possible.get(protocol, True)]
    if isinstance(protocols, str):
        raise TypeError(f"`protocols` must be a list of names, found the string {protocols!r}.")
    for protocol in protocols:
        _validate.check_choice("protocols", protocol, PROTOCOLS)
    if "leave_donor_out" in protocols and donors is None:
        raise KeyError("`protocols` has 'leave_donor_out', which needs `donors`: say who each spot is from.")
    for protocol, number in {"leave_slide_out": n_slides, "leave_donor_out": n_donors}.items():
        if protocol in protocols and number < 2:
            raise ValueError(f"`protocols` has {protocol!r}, which needs two with annotated spots, found {number}.")
    return list(protocols)
