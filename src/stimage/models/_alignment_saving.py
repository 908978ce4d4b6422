from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from stimage import _validate
from stimage._paths import path_of
from stimage.data import Vocabulary
from stimage.models._checked_config import (
    MISFITS,
    check_config_size,
    check_unaltered,
    damaged,
    read_dataclass,
    read_history,
    read_manifest,
    sealed,
    typed,
)
from stimage.models._checked_weights import (
    check_prefixes,
    check_tensors,
    load_module,
    of_shapes,
    tensors_id,
    tensors_under,
)
from stimage.models._expression_head import ExpressionHead
from stimage.models._image_basis import ImageBasis
from stimage.models._image_features import PatchSpec, encoder_id, named_encoder
from stimage.models._manifest import GENE_ENCODER, GENE_ENCODER_FILES, MODEL_FILES
from stimage.models._patch_scale import PatchScale
from stimage.models._setup import vocabulary_hash
from stimage.models._sharing import ShareMixin
from stimage.models._stimage import STImage
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder
from stimage.train import AlignmentOptimizerConfig, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData

_GeneEncoder = Literal["STImage", "ScGPTEncoder"]


class AlignmentSaveMixin(ShareMixin):
    """Saving, loading and provenance of an aligner."""

    @property
    def model_id(self) -> str:
        """Hash of all that was learned, 16 hexadecimal digits."""
        return tensors_id(self._tensors())

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that was learned, by its name in a checkpoint."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for prefix, part in (("basis", self.basis), ("head", self.head)):
            if part is not None:
                tensors |= {f"{prefix}.{name}": torch.from_numpy(values) for name, values in part.tensors().items()}
        return tensors

    def provenance(self, adata: AnnData) -> dict[str, Any]:
        """What to note beside a result.

        Parameters
        ----------
        adata
            What the result is written to.

        Returns
        -------
        dict
            Model id, version, image encoder, vocabulary hash and gene overlap; h5ad-writable.
        """
        return {
            "model": type(self).__name__,
            "model_id": self.model_id,
            "image_encoder": "" if self.image_encoder is None else self.image_encoder.config.name,
            "stimage_version": version("stimage"),
            "vocabulary_sha256": self.manifest["vocabulary_sha256"],
            **self.vocabulary.match(adata).notes(),
        }

    def manifest_record(self) -> dict[str, Any]:
        """What the model was trained on, JSON-compatible.

        Returns
        -------
        dict
            ``slides``: a list with name, number of sites, fingerprints and donor of each; ``vocabulary_sha256``.
        """
        return {**self.manifest, "slides": self.manifest["slides"].to_dict("records")}

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the model as safetensors and JSON.

        Frozen image encoders and scGPT are named, not copied: their weights are often not ours to pass on. A gene encoder
        that is an :class:`STImage` is saved in a folder of its own.

        Parameters
        ----------
        directory
            Where to write; made when absent.
        overwrite
            Replace a model that is there.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is not set.
        """
        _validate.check_path("directory", directory)
        directory = path_of(directory)
        if (directory / "config.json").exists() and not overwrite:
            raise FileExistsError(f"{str(directory)!r} holds a model already: pass `overwrite=True` to replace it.")
        if isinstance(self.gene_encoder, STImage):
            self.gene_encoder.save(directory / GENE_ENCODER, overwrite=overwrite)
        encoders = [self.image_encoder, self.niche_image_encoder]
        config = {
            "stimage_version": version("stimage"),
            "genes": self.genes.tolist(),
            "ensembl_ids": self.vocabulary.ensembl_ids,
            "config": asdict(self.config),
            "optimizer": asdict(self.optimizer),
            "patches": asdict(self.patches),
            "patch_scale": asdict(self.patch_scale),
            "image_encoders": [None if encoder is None else encoder.config.name for encoder in encoders],
            "image_encoder_ids": [None if encoder is None else encoder_id(encoder) for encoder in encoders],
            "train_image_encoder": self.train_image_encoder,
            "gene_encoder": None if self.gene_encoder is None else type(self.gene_encoder).__name__,
            "gene_encoder_id": None if self.gene_encoder is None else _gene_encoder_id(self.gene_encoder),
            "n_spot_genes": self.n_spot_genes,
            "spot_context": self.spot_context,
            "spectral_start": self.spectral_start,
            "niches": self.niches,
            "niche_key": self.niche_key,
            "seed": self.seed,
            "is_trained": self.is_trained,
            "n_tokens_seen": self.n_tokens_seen,
            "history": {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in self.history.items()},
            "manifest": self.manifest_record(),
        }
        save_checkpoint(directory, kind=type(self).__name__, weights=self._tensors(), config=sealed(config))

    @classmethod
    def load(
        cls,
        directory: str | Path,
        data: AnnData | Sequence[AnnData] | None = None,
        *,
        image_encoder: ImageEncoder | None = None,
        niche_image_encoder: ImageEncoder | None = None,
        gene_encoder: ScGPTEncoder | None = None,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        directory
            The checkpoint.
        data
            Slides for :meth:`train`, :meth:`get_latent_representation` without arguments and retrieval.
        image_encoder, niche_image_encoder
            The encoders that the model was trained with, where they need weights from you; also of an encoder that was
            trained along, as it was before.
        gene_encoder
            The same for scGPT.
        image_dir, cache_dir
            Folders of image files and of image features, for ``data``.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is of another kind or version, truncated or altered, or an encoder is missing or another one.
        """
        _validate.check_path("directory", directory)
        check_config_size(path_of(directory))
        weights, config = load_checkpoint(directory, kind=cls.__name__)
        model = cls.__new__(cls)
        try:
            check_unaltered(config)
            model.vocabulary = Vocabulary(config["genes"], typed(config["ensembl_ids"], dict, "ensembl_ids"))
            model.config = read_dataclass(AlignerConfig, config["config"], "config")
            model.optimizer = read_dataclass(AlignmentOptimizerConfig, config["optimizer"], "optimizer")
            model.patches = read_dataclass(PatchSpec, config["patches"], "patches")
            model.patch_scale = read_dataclass(PatchScale, config["patch_scale"], "patch_scale")
            for name in ("train_image_encoder", "spot_context", "spectral_start", "niches", "is_trained"):
                setattr(model, name, typed(config[name], bool, name))
            model.niche_key, model.seed = typed(config["niche_key"], str, "niche_key"), config["seed"]
            model.n_spot_genes = typed(config["n_spot_genes"], int, "n_spot_genes")
            model.n_tokens_seen = config["n_tokens_seen"]
            model.history = read_history(config["history"])
            model.manifest = read_manifest(config["manifest"])
            names, ids = (typed(config[key], list, key) for key in ("image_encoders", "image_encoder_ids"))
            gene_encoder_kind, gene_encoder_id = config["gene_encoder"], config["gene_encoder_id"]
            model._check_values(names, gene_encoder_kind)
            spot, niche = zip(names, ids, strict=True)
            check_prefixes(weights, ("module.", "basis.", "head."))
        except MISFITS as error:
            raise damaged(directory, error) from error
        model.image_encoder = _image_encoder_of(
            *spot, image_encoder, "image_encoder", directory, seed=model.seed, trained=model.train_image_encoder
        )
        if niche == spot and niche_image_encoder is None and not model.train_image_encoder:
            model.niche_image_encoder = model.image_encoder
        else:
            if niche_image_encoder is None and niche[0] == spot[0]:
                niche_image_encoder = image_encoder
            model.niche_image_encoder = _image_encoder_of(
                *niche, niche_image_encoder, "niche_image_encoder", directory, seed=model.seed
            )
        model.gene_encoder = _gene_encoder_of(gene_encoder_kind, gene_encoder_id, path_of(directory), gene_encoder)
        try:
            axes, head = tensors_under(weights, "basis."), tensors_under(weights, "head.")
            model._check_image_tensors(axes, head)
            axes, head = ({name: tensor.numpy() for name, tensor in part.items()} for part in (axes, head))
            model.basis = None
            if axes:
                model.basis = ImageBasis(axes.get("spot_image"), axes.get("niche_image"), model.spot_context)
            model.head = ExpressionHead.from_tensors(head) if head else None
            n_blocks = model.config.n_layers if model.niches and model.config.adaptive else 0
            model.module = load_module(model._build_module, tensors_under(weights, "module."), n_blocks=n_blocks)
        except MISFITS as error:
            raise damaged(directory, error) from error
        model.module.eval()
        model.paired = None
        if data is not None:
            model.paired = model._paired_for(data, image_dir=image_dir, cache_dir=cache_dir, images=True)
        return model

    def _file_names(self) -> tuple[str, ...]:
        return (*MODEL_FILES, *(GENE_ENCODER_FILES if isinstance(self.gene_encoder, STImage) else ()))

    def _as_saved(self, directory: Path) -> Self:
        return self

    def _card_facts(self) -> dict[str, str]:
        image = "none" if self.image_encoder is None else f"`{self.image_encoder.config.name}`"
        gene = "trained along" if self.gene_encoder is None else f"`{type(self.gene_encoder).__name__}`"
        return {"image encoder": image, "gene encoder of spots": gene, "niches": "seen" if self.niches else "not seen"}

    def _card_encoders(self) -> str:
        needed = [] if self.image_encoder is None else ["image_encoder=..."]
        if isinstance(self.gene_encoder, ScGPTEncoder):
            needed.append("gene_encoder=...")
        return "".join(f", {argument}" for argument in needed)

    def _check_values(self, image_encoders: list[Any], gene_encoder: Any) -> None:
        """Raise ``ValueError`` or ``TypeError`` for values that no model is built with."""
        _validate.check_seed(self.seed)
        _validate.check_positive("n_tokens_seen", self.n_tokens_seen, smallest=0)
        if vocabulary_hash(self.genes) != self.manifest["vocabulary_sha256"]:
            raise ValueError("the checksum of the gene names does not match")
        for name in image_encoders:
            if name is not None:
                typed(name, str, "image_encoders")
        if gene_encoder is not None:
            typed(gene_encoder, _GeneEncoder, "gene_encoder")
        spot, niche = image_encoders
        if (niche is None) != (spot is None or not self.niches) or (spot is None and self.train_image_encoder):
            raise ValueError(
                f"`image_encoders` are {'named' if niche else 'missing'} where the other parts say otherwise"
            )
        if gene_encoder is None and self.n_spot_genes != len(self.genes):
            raise ValueError(f"`n_spot_genes` is {self.n_spot_genes}, and there are {len(self.genes)} genes")

    def _check_image_tensors(self, axes: dict[str, torch.Tensor], head: dict[str, torch.Tensor]) -> None:
        """Raise ``ValueError`` unless the tensors for images are those of the encoders, patches and genes."""
        if self.image_encoder is None and (axes or head):
            raise ValueError("there are weights for images, and no image encoder is named")
        shapes = {}
        n_spot, n_niche = self.patches.n_colours
        if self.image_encoder is not None and not self.train_image_encoder:
            width = self.image_encoder.config.width * len(self.patches.spot_widths) + n_spot
            shapes["spot_image"] = (width, axes["spot_image"].shape[1])
        if self.niche_image_encoder is not None:
            width = self.niche_image_encoder.config.width * len(self.patches.niche_widths) + n_niche
            shapes["niche_image"] = (width, axes["niche_image"].shape[1])
        check_tensors(of_shapes(shapes), axes)
        if head:
            n_inputs, n_genes = self.n_head_inputs, len(self.genes)
            shapes = {"mean": (n_inputs,), "weights": (n_inputs, n_genes), "intercept": (n_genes,), "penalty": (1,)}
            check_tensors(of_shapes(shapes), head)


def _image_encoder_of(
    name: str | None,
    expected: str | None,
    given: ImageEncoder | None,
    parameter: str,
    directory: str | Path,
    *,
    seed: int,
    trained: bool = False,
) -> ImageEncoder | None:
    """An image encoder that a checkpoint names: the one given, or built by name; the same weights unless it was trained."""
    if name is None:
        return None
    if given is not None and not isinstance(given, ImageEncoder):
        raise TypeError(f"`{parameter}` must be a stimage.modules.ImageEncoder, found {type(given).__name__}.")
    if given is None:
        try:
            given = named_encoder(name, seed)
        except ValueError as error:
            name = name[:80]
            raise ValueError(
                f"The model in {str(directory)!r} was trained with the image encoder {name!a}: pass `{parameter}="
                f"stimage.modules.load_image_encoder({name!a}, weights=...)`."
            ) from error
    if trained:  # its weights are in the checkpoint
        return copy.deepcopy(given).eval().requires_grad_(False)
    if encoder_id(given) != expected:
        raise ValueError(
            f"`{parameter}` has other weights than the {name[:80]!a} that the model in {str(directory)!r} was trained with: "
            "pass the same ones."
        )
    return given.eval().requires_grad_(False)


def _gene_encoder_of(
    kind: str | None, expected: str | None, directory: Path, given: ScGPTEncoder | None
) -> STImage | ScGPTEncoder | None:
    """The frozen gene encoder of a checkpoint: saved beside it, or given."""
    if kind is None:
        return None
    if kind == STImage.__name__:
        encoder = STImage.load(directory / GENE_ENCODER)
    elif isinstance(given, ScGPTEncoder):
        encoder = given
    else:
        found = "" if given is None else f", found {type(given).__name__}"
        raise ValueError(
            f"The model in {str(directory)!r} was trained with a frozen {kind}: pass it as `gene_encoder`{found}."
        )
    if _gene_encoder_id(encoder) != expected:
        raise ValueError(
            f"`gene_encoder` has other weights than the {kind} that the model in {str(directory)!r} was trained with: pass "
            "the same one, or get the model again."
        )
    return encoder


def _gene_encoder_id(encoder: STImage | ScGPTEncoder) -> str:
    """Hash of a gene encoder: its weights and its genes, 16 hexadecimal digits."""
    if isinstance(encoder, STImage):
        return encoder.model_id
    return tensors_id(encoder.state_dict(), repr(sorted(encoder.vocabulary.items())))
