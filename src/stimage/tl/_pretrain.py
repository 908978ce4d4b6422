from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from os import PathLike
from typing import TYPE_CHECKING, Any

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.data import Corpus
from stimage.models import STImage
from stimage.models._options import (
    TrainingOptions,
    by_group,
    changed_optimizer,
    group_of,
    training_keys,
    training_sample,
)
from stimage.models._presets import PRESETS, Preset
from stimage.models._setup import check_setup, corpus_of

if TYPE_CHECKING:
    from anndata import AnnData


def pretrain(
    adatas: AnnData | Sequence[AnnData] | Corpus,
    *,
    genes: Sequence[str] | None = None,
    n_pool_genes: int = 2000,
    layer: str | None = None,
    slide_key: str | None = None,
    grid_key: str = _keys.GRID,
    donor_key: str | None = None,
    preset: Preset = "default",
    window: int = 16,
    max_epochs: int = 40,
    batch_size: int = 32,
    checkpoint_dir: str | PathLike[str] | None = None,
    seed: int | None = 0,
    model_kwargs: dict[str, Any] | None = None,
    plan_kwargs: dict[str, Any] | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> STImage:
    """Pretrain a masked autoencoder on one slide, several or a corpus. No labels are used.

    Parameters
    ----------
    adatas
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid` and perhaps backed, or a
        :class:`stimage.data.Corpus`.
    genes
        Vocabulary; by default the ``n_pool_genes`` genes of :func:`stimage.pp.select_genes`, of a corpus all its genes.
    n_pool_genes
        Size of the vocabulary when ``genes`` is not given.
    layer
        Layer with raw counts; ``X`` by default.
    slide_key
        Key in ``obs`` of each observation's slide; by default the one that the grid was built with.
    grid_key
        ``key_added`` of the grid.
    donor_key
        Key in ``obs`` of who the tissue is from, noted in the model so that a benchmark on the same donor is refused.
    preset
        ``"default"`` for a laptop, ``"paper"`` for the published sizes, mask and start.
    window
        Rows and columns of a window.
    max_epochs
        Number of epochs.
    batch_size
        Windows in a batch, of all devices together.
    checkpoint_dir
        Folder for checkpoints. The same call resumes from the last one after an interruption, and ends as if it had never
        stopped. Checkpoints of another training are refused.
    seed
        Seed of everything random. ``None`` takes ``scvi.settings.seed``, or 0 where that is not set.
    model_kwargs
        Further options of :class:`stimage.models.STImage`: ``unit``, ``n_genes``, ``gene_selection``, ``masking``,
        ``mask_ratio``, ``n_neighbors``, ``neighbor_weights``, ``n_macro_domains`` and ``spectral_start``.
    plan_kwargs
        How it is optimised, where the preset does not suit: ``learning_rate``, ``weight_decay``, ``warmup`` and
        ``gradient_clip``, see :class:`stimage.train.OptimizerConfig`.
    trainer_kwargs
        How it is run: further fields of :class:`stimage.models.TrainingOptions`, such as ``validation_size``,
        ``early_stopping``, ``accelerator`` and ``devices``, or arguments of :class:`scvi.train.Trainer`, such as
        ``strategy="ddp"``.
    options
        Any option of these groups by its own name, as in ``mask_ratio=0.5``.

    Returns
    -------
    stimage.models.STImage
        The trained model. In each AnnData, ``uns["stimage"]["setup"]`` says where counts and slides are.

    Raises
    ------
    KeyError
        If a grid, layer or key is missing.
    TypeError
        If a key of one of the groups of options is not known.
    ValueError
        If counts are not raw, no window fits any slide, slides have no gene in common, or ``checkpoint_dir`` holds another
        training. The AnnData stay as they were when training fails.
    FloatingPointError
        If the loss is no longer finite. The error names the step, its windows and the file that they were written to.
    OSError
        If a checkpoint cannot be written; those before it are whole.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.tl.pretrain(
    ...     adata,
    ...     window=8,
    ...     n_pool_genes=200,
    ...     max_epochs=1,
    ...     model_kwargs={"n_genes": 64},
    ...     trainer_kwargs={"enable_progress_bar": False},
    ... )

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, Eqs. 2-4 and 6-8.
    """
    seed = seed_of(seed)
    _validate.check_seed(seed)
    _validate.check_positive("n_pool_genes", n_pool_genes)
    named = {"data", "genes", "n_pool_genes", "preset", "window", "seed"}
    trained = {"max_epochs", "batch_size", "checkpoint_dir"}
    groups = {
        "model_kwargs": (
            model_kwargs,
            [name for name in _validate.keyword_names(STImage.__init__) if name not in named],
        ),
        "plan_kwargs": (plan_kwargs, [part.name for part in fields(PRESETS["default"].optimizer)]),
        "trainer_kwargs": (trainer_kwargs, [name for name in training_keys() if name not in trained]),
    }
    model_kwargs, plan_kwargs, trainer_kwargs = by_group(options, groups)
    model_kwargs = group_of("model_kwargs", model_kwargs, _validate.keyword_names(STImage.__init__), named)
    sample = {name: value for name, value in model_kwargs.items() if name != "spectral_start"}
    _, unit = training_sample(preset=preset, window=window, **sample)
    changed_optimizer(PRESETS[preset].optimizer, plan_kwargs)
    training = group_of("trainer_kwargs", trainer_kwargs, training_keys(), trained)
    training |= {"batch_size": batch_size, "checkpoint_dir": checkpoint_dir}
    TrainingOptions.of(unit, max_epochs, **training)
    setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
    if isinstance(adatas, Corpus):
        chosen = [name for name, value in {"genes": genes, **setup, "grid_key": None}.items() if value is not None]
        if chosen:
            raise ValueError(
                f"`{chosen[0]}` cannot be chosen for a corpus, which has its own: pass AnnData, or leave it out."
            )
        corpus = adatas
    else:
        adatas = _validate.check_anndatas(adatas, "adatas")
        for adata in adatas:
            check_setup(adata, setup, backed=True)
        corpus = corpus_of(adatas, genes, n_pool_genes, setup=setup, backed=True)
    model = STImage(corpus, preset=preset, window=window, n_pool_genes=n_pool_genes, seed=seed, **model_kwargs)
    model.train(max_epochs, plan_kwargs=plan_kwargs, **training)
    if corpus is not adatas:
        for adata in adatas:
            STImage.setup_anndata(adata, **setup)
    return model
