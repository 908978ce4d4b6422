from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.data import StoredPairs
from stimage.models import STAlign, STImage
from stimage.models._devices import trainer_devices
from stimage.models._options import by_group, changed_optimizer, group_of, trainer_keys
from stimage.models._setup import check_setup, with_setup
from stimage.models.alignment._presets import ALIGNER_PRESETS, AlignerPreset
from stimage.models.alignment._training import check_alignment_options
from stimage.train import AlignmentOptimizerConfig

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.modules import ImageEncoder, ScGPTEncoder


def align(
    adatas: AnnData | Sequence[AnnData] | StoredPairs,
    *,
    genes: Sequence[str] | None = None,
    n_pool_genes: int = 1000,
    layer: str | None = None,
    slide_key: str | None = None,
    grid_key: str = _keys.GRID,
    niche_key: str = _keys.NICHE,
    donor_key: str | None = None,
    image_encoder: str | ImageEncoder | None = "efficientnet_lite0",
    gene_encoder: STImage | ScGPTEncoder | None = None,
    preset: AlignerPreset = "default",
    image_dir: str | Path | None = None,
    max_epochs: int = 20,
    batch_size: int = 128,
    seed: int | None = 0,
    accelerator: str = "auto",
    device: int | str = "auto",
    model_kwargs: dict[str, Any] | None = None,
    plan_kwargs: dict[str, Any] | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> STAlign:
    """Align images and expression of spots and of their niches (ST-Align). No labels are used.

    Parameters
    ----------
    adatas
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`, with
        the image in ``uns["spatial"]`` as squidpy keeps it. Or a corpus on disk with image features, for more slides than
        fit into memory: what :func:`stimage.pp.build_pairs` returns, of which ``layer``, ``slide_key`` and ``donor_key``
        are known.
    genes
        Vocabulary; by default the ``n_pool_genes`` genes of :func:`stimage.pp.select_genes`.
    n_pool_genes
        Size of the vocabulary when ``genes`` is not given.
    layer
        Layer with raw counts; ``X`` by default.
    slide_key
        Key in ``obs`` of each observation's slide; by default the one that the grid was built with. The image of a slide
        is the entry of ``uns["spatial"]`` of the same name; a single slide may have a single image of any name.
    grid_key, niche_key
        ``key_added`` of the grid and of the niches.
    donor_key
        Key in ``obs`` of who the tissue is from, noted in the model. The regression of expression is shrunk as predicts
        donors best that it has not seen; without the key, each slide counts as a donor.
    image_encoder
        Frozen encoder of image patches: a name, one from :func:`stimage.modules.load_image_encoder` for weights on your
        disk, or ``None`` to align without images.
    gene_encoder
        Frozen encoder of the expression of spots; by default a perceptron that is trained with the aligner.
    preset
        ``"default"``, or ``"paper"`` for its weights of the losses, the cross-scale loss among them, its dropout, temperature and
        learning rate, one patch per level and a random start. Encoders are chosen apart; ``model_kwargs`` and ``plan_kwargs``
        come first.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    max_epochs
        Number of epochs, in each of which every spot is used once.
    batch_size
        Most spots in a batch.
    seed
        Seed of everything random. ``None`` takes ``scvi.settings.seed``, or 0 where that is not set.
    accelerator, device
        Where image and gene encoders compute features and where the aligner is trained: ``"auto"`` (a GPU if there is one),
        ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``, and the number of the device. See the guide to GPUs.
    model_kwargs
        Further options of :class:`stimage.models.STAlign`: ``niche_image_encoder``, ``train_image_encoder``, ``patches``,
        ``spot_context``, ``niches``, ``n_image_components``, ``cache_dir``, ``config`` and ``spectral_start``.
    plan_kwargs
        How it is optimised, where the preset does not suit: ``learning_rate`` (1e-4; the paper, on 1.3 million spots, has 5e-4),
        ``weight_decay``, ``warmup`` and ``gradient_clip``, see :class:`stimage.train.AlignmentOptimizerConfig`.
    trainer_kwargs
        How it is run: further options of :meth:`stimage.models.STAlign.train`, such as ``negatives`` and ``num_workers``,
        or arguments of :class:`scvi.train.Trainer`.
    options
        Any option of these groups by its own name, as in ``niches=False``.

    Returns
    -------
    stimage.models.STAlign
        The trained model. In each AnnData, ``uns["stimage"]["setup"]`` says where counts and slides are.

    Raises
    ------
    KeyError
        If a grid, niches, an image, a layer or a key is missing.
    TypeError
        If a key of one of the groups of options is not known.
    ValueError
        If counts are not raw, spots lie outside their image, or slides have no gene in common, or there is no such
        device. The AnnData stay as they were when training fails.

    Examples
    --------
    >>> import stimage as sti
    >>> from stimage.modules import AlignerConfig
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> aligner = sti.tl.align(
    ...     adata,
    ...     n_pool_genes=200,
    ...     image_encoder=None,
    ...     max_epochs=1,
    ...     model_kwargs={"config": AlignerConfig(dim=32, n_layers=1)},
    ...     trainer_kwargs={"enable_progress_bar": False},
    ... )
    >>> sti.tl.embed(adata, aligner, level="niche")
    >>> adata.obsm["X_stimage"].shape == (adata.n_obs, 32)
    True

    References
    ----------
    ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics, arXiv 2411.16793.
    """
    stored = adatas if isinstance(adatas, StoredPairs) else None
    adatas = _validate.check_anndatas(adatas, "adatas") if stored is None else []
    seed = seed_of(seed)
    training_place = trainer_devices(accelerator, device)
    named = {"data", "genes", "n_pool_genes", "niche_key", "image_encoder", "gene_encoder", "image_dir", "seed"}
    named |= {"preset", "accelerator", "device"}
    of_model = _validate.keyword_names(STAlign.__init__)
    own = [name for name in (*_validate.keyword_names(STAlign.train), *trainer_keys()) if name != "devices"]
    trained = {"max_epochs", "batch_size", "plan_kwargs", "accelerator"}
    groups = {
        "model_kwargs": (model_kwargs, [name for name in of_model if name not in named]),
        "plan_kwargs": (plan_kwargs, [part.name for part in fields(AlignmentOptimizerConfig)]),
        "trainer_kwargs": (trainer_kwargs, [name for name in own if name not in trained]),
    }
    model_kwargs, plan_kwargs, trainer_kwargs = by_group(options, groups)
    model_kwargs = group_of("model_kwargs", model_kwargs, of_model, named)
    _validate.check_choice("preset", preset, ALIGNER_PRESETS)
    changed_optimizer(ALIGNER_PRESETS[preset].optimizer, plan_kwargs)
    trainer_kwargs = group_of("trainer_kwargs", trainer_kwargs, own, trained)
    check_alignment_options(max_epochs=max_epochs, batch_size=batch_size, **trainer_kwargs)
    setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
    for adata in adatas:
        check_setup(adata, setup)
    for key in ("layer", "slide_key", "donor_key"):
        if stored is not None and setup[key] is not None:
            raise ValueError(f"`{key}` is of AnnData: a corpus on disk was built with it. Leave it out.")
    model = STAlign(
        [with_setup(adata, setup) for adata in adatas] if stored is None else stored,
        genes=genes,
        n_pool_genes=n_pool_genes,
        image_encoder=image_encoder,
        gene_encoder=gene_encoder,
        preset=preset,
        niche_key=niche_key,
        image_dir=image_dir,
        seed=seed,
        accelerator=accelerator,
        device=device,
        **model_kwargs,
    )
    model.train(max_epochs, batch_size=batch_size, plan_kwargs=plan_kwargs, **training_place, **trainer_kwargs)
    for adata in adatas:
        STAlign.setup_anndata(adata, **setup)
    return model
