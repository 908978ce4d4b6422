from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.data import Corpus, SampleUnit
from stimage.models import STImage
from stimage.models._options import check_model_options, check_training_options, check_unit_options
from stimage.models._setup import check_setup, corpus_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data.sampling._gene_selection import GeneSelection
    from stimage.data.sampling.masking import Masking
    from stimage.data.sampling.units import NeighborWeights, Unit
    from stimage.models._options import Sampling
    from stimage.models._presets import Preset


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
    unit: Unit = "patch",
    n_neighbors: int = 16,
    neighbor_weights: NeighborWeights = "learned",
    n_macro_domains: int = 8,
    window: int = 16,
    n_genes: int = 512,
    gene_selection: GeneSelection = "weighted",
    masking: Masking | None = None,
    mask_ratio: float | None = None,
    spectral_start: bool | None = None,
    max_epochs: int = 40,
    batch_size: int = 32,
    windows_per_epoch: int | None = None,
    learning_rate: float | None = None,
    validation_size: float | None = None,
    early_stopping: bool = False,
    accelerator: str = "auto",
    devices: int | str | list[int] = "auto",
    precision: str = "32-true",
    accumulate_grad_batches: int = 1,
    sampling: Sampling = "cpu",
    num_workers: int = 0,
    checkpoint_dir: str | PathLike[str] | None = None,
    checkpoint_every_n_epochs: int = 1,
    seed: int | None = 0,
    **trainer_kwargs: Any,
) -> STImage:
    """Pretrain a masked autoencoder on one slide, several or a corpus. No labels are used.

    Parameters
    ----------
    adatas
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid`, or a :class:`stimage.data.Corpus`.
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
    unit
        What one training sample is: ``"patch"``, a window; ``"spot"``, a spot alone; ``"neighborhood"``, a spot and its
        nearest neighbours; ``"slice"``, a slide in macro-domains. A step sees as many spots with each.
    n_neighbors
        Neighbours of a spot, with ``unit="neighborhood"``.
    neighbor_weights
        ``"learned"``: attention of a spot to its neighbours; ``"fixed"``: their mean.
    n_macro_domains
        Macro-domains of a slide, with ``unit="slice"``.
    window
        Rows and columns of a window; the other units take as many spots as it has sites.
    n_genes
        Genes (channels) of a training window.
    gene_selection
        ``"weighted"`` by variance in the window, ``"hvg"`` or ``"random"``.
    masking
        ``"site"``, ``"site_gene"``, ``"region"`` or ``"mixed"``; by default what the preset says. Units other than
        ``"patch"`` hide single values: ``"site_gene"``.
    mask_ratio
        Share hidden; by default what the preset says.
    spectral_start
        Start from the principal axes of the data; by default what the preset says.
    max_epochs
        Number of epochs.
    batch_size
        Windows in a batch, of all devices together.
    windows_per_epoch
        Windows in an epoch; by default each site is in about eight of them.
    learning_rate
        Highest learning rate; by default what the preset says.
    validation_size
        Share held out in whole slides or in spatial blocks; by default 0, and 0.1 with early stopping.
    early_stopping
        Stop when the validation loss no longer falls.
    accelerator, devices
        Where to train, as in Lightning; ``"auto"`` is one device, and with torchrun or srun those that they started.
    precision
        ``"32-true"``, or ``"bf16-mixed"``: matrix products with 16 bits, for GPUs that are fast at it.
    accumulate_grad_batches
        Batches in a step of the optimiser, whose gradient is that of one batch of their joint size.
    sampling
        Where windows are cut: ``"cpu"``, or ``"device"``, where the model is trained and the expression of all slides is then
        kept, in half precision. Faster on a GPU. The windows are others for a seed, of the same distribution.
    num_workers
        Processes that prepare windows ahead on the CPU. Results do not depend on it.
    checkpoint_dir
        Folder for checkpoints. If it has some of this very training, training goes on from the last: run again after an
        interruption, the same call ends as if it had never stopped. Checkpoints of another training are refused.
    checkpoint_every_n_epochs
        Epochs between checkpoints; the last epoch always has one.
    seed
        Seed of everything random. ``None`` takes ``scvi.settings.seed``, or 0 where that is not set.
    trainer_kwargs
        Passed on to :class:`scvi.train.Trainer`, e.g. ``strategy="ddp"`` and ``num_nodes``.

    Returns
    -------
    stimage.models.STImage
        The trained model. In each AnnData, ``uns["stimage"]["setup"]`` says where counts and slides are.

    Raises
    ------
    KeyError
        If a grid, layer or key is missing.
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
    >>> options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1, "enable_progress_bar": False}
    >>> model = sti.tl.pretrain(adata, **options)

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, Eqs. 2-4 and 6-8.
    """
    seed = seed_of(seed)
    model_options = {
        "preset": preset,
        "gene_selection": gene_selection,
        "masking": masking,
        "mask_ratio": mask_ratio,
        "window": window,
        "n_genes": n_genes,
        "n_pool_genes": n_pool_genes,
        "seed": seed,
    }
    training_options = {
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "windows_per_epoch": windows_per_epoch,
        "learning_rate": learning_rate,
        "validation_size": validation_size,
        "early_stopping": early_stopping,
        "precision": precision,
        "accumulate_grad_batches": accumulate_grad_batches,
        "sampling": sampling,
        "num_workers": num_workers,
        "checkpoint_dir": checkpoint_dir,
        "checkpoint_every_n_epochs": checkpoint_every_n_epochs,
    }
    unit_options = {
        "unit": unit,
        "n_neighbors": n_neighbors,
        "neighbor_weights": neighbor_weights,
        "n_macro_domains": n_macro_domains,
    }
    check_model_options(**model_options)
    check_unit_options(**unit_options, masking=masking, window=window)
    sample_unit = SampleUnit(unit, n_neighbors, neighbor_weights, n_macro_domains)
    check_training_options(**training_options, unit=sample_unit)
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
            check_setup(adata, setup)
        corpus = corpus_of(adatas, genes, n_pool_genes, setup=setup)
    model = STImage(corpus, spectral_start=spectral_start, **model_options, **unit_options)
    model.train(accelerator=accelerator, devices=devices, **training_options, **trainer_kwargs)
    if corpus is not adatas:
        for adata in adatas:
            STImage.setup_anndata(adata, **setup)
    return model
