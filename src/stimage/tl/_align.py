from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.models import PatchSpec, STAlign, STImage
from stimage.models._alignment_training import check_alignment_options
from stimage.models._setup import check_setup

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data._alignment_data import Negatives
    from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder


def align(
    adatas: AnnData | Sequence[AnnData],
    *,
    genes: Sequence[str] | None = None,
    n_pool_genes: int = 1000,
    layer: str | None = None,
    slide_key: str | None = None,
    grid_key: str = _keys.GRID,
    niche_key: str = _keys.NICHE,
    donor_key: str | None = None,
    image_encoder: str | ImageEncoder | None = "efficientnet_lite0",
    niche_image_encoder: str | ImageEncoder | None = None,
    train_image_encoder: bool = False,
    gene_encoder: STImage | ScGPTEncoder | None = None,
    patches: PatchSpec | None = None,
    spot_context: bool = False,
    niches: bool = True,
    n_image_components: int = 128,
    image_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    config: AlignerConfig | None = None,
    spectral_start: bool = True,
    max_epochs: int = 20,
    batch_size: int = 128,
    negatives: Negatives = "slide",
    learning_rate: float | None = None,
    accelerator: str = "auto",
    devices: int | str | list[int] = "auto",
    num_workers: int = 0,
    seed: int | None = 0,
    **trainer_kwargs: Any,
) -> STAlign:
    """Align images and expression of spots and of their niches (ST-Align). No labels are used.

    Parameters
    ----------
    adatas
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`, with
        the image in ``uns["spatial"]`` as squidpy keeps it.
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
    niche_image_encoder
        Encoder of niche patches; by default that of spots, and ``"efficientnet_lite0"`` where that is trained.
    train_image_encoder
        Train the spot encoder along, on pixels; for GPUs.
    gene_encoder
        Frozen encoder of the expression of spots; by default a perceptron that is trained along.
    patches
        Which image patches are looked at.
    spot_context
        Whether the image of a spot is its patch beside that of its niche; by default its patch alone, as in the paper.
    niches
        Whether niches are seen at all.
    n_image_components
        Principal components of image features that are kept at each level.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default in the user's cache.
    config
        Sizes, losses and parts of the module, see :class:`stimage.modules.AlignerConfig`.
    spectral_start
        Start in closed form, or at random.
    max_epochs
        Number of epochs, in each of which every spot is seen once.
    batch_size
        Most spots in a batch.
    negatives
        ``"slide"`` or ``"batch"``: whether a spot is told apart from others of its slide, or of all slides.
    learning_rate
        Highest learning rate; by default 1e-4 (the paper, on 1.3 million spots: 5e-4).
    accelerator, devices
        Where to train, as in Lightning.
    num_workers
        Processes that prepare batches. Results do not depend on it.
    seed
        Seed of everything random. ``None`` takes ``scvi.settings.seed``, or 0 where that is not set.
    trainer_kwargs
        Passed on to :class:`scvi.train.Trainer`.

    Returns
    -------
    stimage.models.STAlign
        The trained model. In each AnnData, ``uns["stimage"]["setup"]`` says where counts and slides are.

    Raises
    ------
    KeyError
        If a grid, niches, an image, a layer or a key is missing.
    ValueError
        If counts are not raw, spots lie outside their image, or slides have no gene in common. The AnnData stay as they
        were when training fails.

    Examples
    --------
    >>> import stimage as sti
    >>> from stimage.modules import AlignerConfig
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> options = {"n_pool_genes": 200, "config": AlignerConfig(dim=32, n_layers=1), "enable_progress_bar": False}
    >>> aligner = sti.tl.align(adata, image_encoder=None, max_epochs=1, **options)
    >>> sti.tl.embed(adata, aligner, level="niche")
    >>> adata.obsm["X_stimage"].shape == (adata.n_obs, 32)
    True

    References
    ----------
    ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics, arXiv 2411.16793.
    """
    adatas = _validate.check_anndatas(adatas, "adatas")
    seed = seed_of(seed)
    training_options = {
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "negatives": negatives,
        "learning_rate": learning_rate,
        "num_workers": num_workers,
    }
    check_alignment_options(**training_options)
    setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
    for adata in adatas:
        check_setup(adata, setup)
    before = [adata.uns.get(_keys.STIMAGE) for adata in adatas]
    try:
        for adata in adatas:
            STAlign.setup_anndata(adata, **setup)
        model = STAlign(
            adatas,
            genes=genes,
            n_pool_genes=n_pool_genes,
            image_encoder=image_encoder,
            niche_image_encoder=niche_image_encoder,
            train_image_encoder=train_image_encoder,
            gene_encoder=gene_encoder,
            patches=patches,
            spot_context=spot_context,
            niches=niches,
            n_image_components=n_image_components,
            niche_key=niche_key,
            image_dir=image_dir,
            cache_dir=cache_dir,
            config=config,
            spectral_start=spectral_start,
            seed=seed,
        )
        model.train(accelerator=accelerator, devices=devices, **training_options, **trainer_kwargs)
    except BaseException:
        for adata, notes in zip(adatas, before, strict=True):
            if notes is None:
                adata.uns.pop(_keys.STIMAGE, None)
            else:
                adata.uns[_keys.STIMAGE] = notes
        raise
    return model
