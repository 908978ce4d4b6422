"""The protocol of HEST-Bench: expression of the most variable genes from patches, tasks and splits as they are published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from stimage import _validate
from stimage._paths import path_of
from stimage._settings import progress
from stimage.benchmark._hest_files import HestFold, HestSample, Targets, read_folds
from stimage.benchmark.baselines._expression import ridge_predictor

if TYPE_CHECKING:
    from stimage.modules import ImageEncoder

HestPredictor = Callable[[HestFold], np.ndarray]
GENE_MEAN = "gene mean"
_BATCH_SIZE = 64
_CONSTANT = 1e-6


def hest_bench(
    root: str | Path,
    encoders: Mapping[str, ImageEncoder] | None = None,
    *,
    predictors: Mapping[str, HestPredictor] | None = None,
    tasks: Sequence[str] | None = None,
    targets: Targets = "raw",
    gene_file: str = "var_50genes.json",
    n_components: int = 256,
    seed: int = 1,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> pd.DataFrame:
    """Score image encoders, aligners and other predictors on a copy of HEST-Bench, or on your own data in its layout.

    A task is a folder with ``splits/train_<i>.csv`` and ``splits/test_<i>.csv`` (columns ``sample_id``, ``patches_path`` and
    ``expr_path``), patches in H5 files, counts in h5ad files and a list of genes. For each encoder there are two
    regressions: that of the protocol (features standardised on the training spots, 256 principal components, ridge regression
    without intercept of penalty 100 / (components x genes)), and ours, on all features with the penalty that predicts training samples
    best that were left out. The gene mean stands beside them.

    Parameters
    ----------
    root
        Folder with tasks, or a single task.
    encoders
        Frozen encoders of :func:`stimage.modules.load_image_encoder` by name.
    predictors
        Functions of a fold that give the expression of its test samples (spots x genes of the fold), such as
        :func:`aligner_predictor`.
    tasks
        Names of tasks; by default all.
    targets
        ``"raw"``: log1p of raw counts, as published, which have the depth of a spot in them. ``"normalised"``: log1p of counts
        per 10,000 of all genes of a spot.
    gene_file
        File with the genes of a task.
    n_components
        Principal components of the protocol's regression; fewer where there are fewer spots or features.
    seed
        Seed of the decomposition; 1 as published.
    accelerator, device
        Where encoders run: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``, and the number of
        the device. See the guide to GPUs.

    Returns
    -------
    pandas.DataFrame
        A row for each task, split and method: ``task``, ``split``, ``method``, ``n_train``, ``n_test``, ``n_genes_scored``
        (genes that vary among the tested spots), ``pearson`` (mean over these; 0 where a prediction is constant), ``mse`` and
        ``targets``. The protocol's regression has no intercept, which its squared error shows. :func:`hest_bench_table` averages.

    Raises
    ------
    FileNotFoundError
        If there is no task, or a file that a split names is not there.
    ValueError
        If a split trains on samples that it tests on, files do not fit together, there is nothing to score, or there is no
        such device.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.benchmark.hest_bench("/absent")
    Traceback (most recent call last):
    FileNotFoundError: '/absent' holds no task of HEST-Bench: a folder with splits/train_0.csv is needed.

    References
    ----------
    Jaume et al. 2024, HEST-1k: A Dataset for Spatial Transcriptomics and Histology Image Analysis.
    """
    encoders, predictors = dict(encoders or {}), dict(predictors or {})
    _validate.check_path("root", root)
    _validate.check_choice("targets", targets, get_args(Targets))
    _validate.check_positive("n_components", n_components)
    _validate.check_seed(seed)
    from stimage.models._devices import find_device

    find_device(accelerator, device)
    taken = sorted(
        ({GENE_MEAN} | {f"{name}, {kind}" for name in encoders for kind in ("protocol", "ridge")}) & set(predictors)
    )
    if taken:
        raise ValueError(f"`predictors` has {_validate.listing(taken)}, as other methods are called: rename.")
    folders = _task_folders(path_of(root), tasks)
    folds = [read_folds(folder, gene_file, targets) for folder in folders]
    records = []
    for of_task in folds:
        features: dict[tuple[str, str], np.ndarray] = {}
        for fold in of_task:
            truth = fold.expression(fold.test)
            for method, predicted in _predictions(
                fold, encoders, predictors, features, n_components, seed, accelerator, device
            ):
                predicted = np.asarray(predicted, dtype=np.float64)
                if predicted.shape != truth.shape or not np.isfinite(predicted).all():
                    raise ValueError(
                        f"{method!r} gave shape {predicted.shape} for {fold.task!r}, {truth.shape} finite values are needed."
                    )
                facts = {"task": fold.task, "split": fold.number, "method": method}
                sizes = {"n_train": sum(len(sample.barcodes) for sample in fold.train), "n_test": len(truth)}
                records.append({**facts, **sizes, **_scores(predicted, truth), "targets": targets})
    return pd.DataFrame(records)


def hest_bench_table(records: pd.DataFrame) -> pd.DataFrame:
    """Mean Pearson correlation over splits, then over tasks.

    Parameters
    ----------
    records
        What :func:`hest_bench` gave, of one kind of targets.

    Returns
    -------
    pandas.DataFrame
        Methods x tasks, with the ``mean`` over tasks last; the best method first.

    Raises
    ------
    ValueError
        If records of several kinds of targets are mixed.

    Examples
    --------
    >>> import pandas as pd
    >>> from stimage.benchmark import hest_bench_table
    >>> rows = [("IDC", 0, 0.2), ("IDC", 1, 0.4), ("LUNG", 0, 0.6)]
    >>> records = pd.DataFrame(rows, columns=["task", "split", "pearson"]).assign(method="ours", targets="raw")
    >>> hest_bench_table(records).round(2).loc["ours"].to_dict()
    {'IDC': 0.3, 'LUNG': 0.6, 'mean': 0.45}
    """
    kinds = records["targets"].unique()
    if len(kinds) > 1:
        raise ValueError(
            f"`records` mix targets {_validate.listing(kinds)}, which cannot be compared: pass those of one."
        )
    per_task = records.groupby(["method", "task"], sort=False)["pearson"].mean().unstack("task")
    return per_task.assign(mean=per_task.mean(axis=1)).sort_values("mean", ascending=False)


def aligner_predictor(**options: Any) -> HestPredictor:
    """An aligner for :func:`hest_bench`, trained on the training samples of each fold.

    The image of a sample is put together from its patches, so that niches can be seen as far as there are patches.

    Parameters
    ----------
    options
        Passed to :func:`stimage.tl.align`. The genes of the fold are added to the vocabulary.

    Returns
    -------
    callable
        Function of a fold that gives the expression of its test samples (spots x genes).

    Examples
    --------
    >>> from stimage.benchmark import aligner_predictor
    >>> callable(aligner_predictor(max_epochs=5))
    True
    """
    from stimage import pp, tl

    def prepared(samples: list[HestSample]) -> list[Any]:
        slides = [sample.slide() for sample in samples]
        for slide in slides:
            pp.compact_grid(slide)
            pp.build_niches(slide)
        return slides

    def predict(fold: HestFold) -> np.ndarray:
        slides = prepared(fold.train)
        genes = fold.genes
        if "genes" not in options and len(slides[0].var_names) > len(genes):
            pool = pp.select_genes(slides if len(slides) > 1 else slides[0], n_genes=options.get("n_pool_genes", 1000))
            genes = list(dict.fromkeys([*fold.genes, *pool.genes]))
        model = tl.align(slides, **{"genes": genes, **options})
        column = pd.Index(model.genes).get_indexer(fold.genes)
        if (column < 0).any():
            raise ValueError("`genes` leaves out genes of the fold: leave it out, or add them.")
        cache_dir = (options.get("model_kwargs") or {}).get("cache_dir")
        reading = {"image_dir": options.get("image_dir"), "cache_dir": cache_dir}
        reading |= {name: options[name] for name in ("accelerator", "device") if name in options}
        predicted = [model.predict_expression(slide, **reading)[:, column] for slide in prepared(fold.test)]
        return np.concatenate(predicted)

    return predict


def _predictions(
    fold: HestFold,
    encoders: Mapping[str, ImageEncoder],
    predictors: Mapping[str, HestPredictor],
    features: dict[tuple[str, str], np.ndarray],
    n_components: int,
    seed: int,
    accelerator: str,
    device: int | str,
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and prediction of each method."""
    from stimage.models._devices import find_device, on_device

    expression = fold.expression(fold.train)
    n_test = sum(len(sample.barcodes) for sample in fold.test)
    yield GENE_MEAN, np.tile(expression.mean(axis=0), (n_test, 1))
    for name, encoder in encoders.items():
        missing = [sample for sample in (*fold.train, *fold.test) if (name, sample.name) not in features]
        if missing:
            with on_device(find_device(accelerator, device, encoder), encoder):
                for sample in missing:
                    features[name, sample.name] = _features(sample, encoder, f"{name}, {sample.name}")
        train, test = (
            np.concatenate([features[name, sample.name] for sample in side]) for side in (fold.train, fold.test)
        )
        yield f"{name}, protocol", _protocol(train, test, expression, n_components, seed)
        groups = np.repeat([sample.name for sample in fold.train], [len(sample.barcodes) for sample in fold.train])
        everything = np.concatenate([expression, np.full((n_test, expression.shape[1]), np.nan)])
        of_all = np.concatenate([groups, np.full(n_test, "test")])
        predict = ridge_predictor(everything, np.concatenate([train, test]), groups=of_all)
        rows = np.arange(len(everything))
        yield f"{name}, ridge", predict(rows[: len(train)], rows[len(train) :], np.arange(expression.shape[1]))
    for name, predictor in predictors.items():
        yield name, predictor(fold)


def _protocol(train: np.ndarray, test: np.ndarray, expression: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    number = min(n_components, *train.shape)
    reduce = make_pipeline(StandardScaler(), PCA(number, random_state=seed))
    inputs = reduce.fit_transform(train.astype(np.float64))
    penalty = 100 / (number * expression.shape[1])
    ridge = Ridge(alpha=penalty, fit_intercept=False, solver="lsqr", max_iter=1000, random_state=seed)
    return ridge.fit(inputs, expression).predict(reduce.transform(test.astype(np.float64))).reshape(len(test), -1)


def _features(sample: HestSample, encoder: ImageEncoder, description: str) -> np.ndarray:
    from stimage.models.alignment._image_features import encoded

    encoder = encoder.eval()
    batches = sample.patches(_BATCH_SIZE)
    n_batches = -(-len(sample.barcodes) // _BATCH_SIZE)
    return np.concatenate([encoded(next(batches), encoder) for _ in progress(range(n_batches), description)])


def _scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    varies = np.ptp(truth, axis=0) > _CONSTANT * np.abs(truth).max(axis=0)
    said = np.ptp(predicted, axis=0) > _CONSTANT * np.abs(predicted).max(axis=0)
    correlations = [np.corrcoef(predicted[:, gene], truth[:, gene])[0, 1] for gene in np.flatnonzero(varies & said)]
    return {
        "n_genes_scored": int(varies.sum()),
        "pearson": float(np.sum(correlations) / varies.sum()) if varies.any() else float("nan"),
        "mse": float(np.mean((predicted - truth) ** 2)),
    }


def _task_folders(root: Path, tasks: Sequence[str] | None) -> list[Path]:
    if (root / "splits").is_dir():
        if tasks is not None and list(tasks) != [root.name]:
            raise ValueError(f"`tasks` are {_validate.listing(tasks)}, and `root` is the task {root.name!r}.")
        return [root]
    found = sorted(path for path in root.glob("*") if (path / "splits").is_dir())
    if not found:
        raise FileNotFoundError(
            f"{str(root)!r} holds no task of HEST-Bench: a folder with splits/train_0.csv is needed."
        )
    if tasks is None:
        return found
    missing = sorted(set(tasks) - {path.name for path in found})
    if missing:
        raise FileNotFoundError(f"`tasks`: there is no {_validate.listing(missing)} in {str(root)!r}.")
    return [root / task for task in tasks]
