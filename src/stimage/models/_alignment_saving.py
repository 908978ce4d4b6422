from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
import torch

from stimage import _validate
from stimage.data import Vocabulary
from stimage.models._expression_head import ExpressionHead
from stimage.models._image_basis import ImageBasis
from stimage.models._image_features import PatchSpec, encoder_id, named_encoder, tensors_id
from stimage.models._saving import tensors_under
from stimage.models._setup import vocabulary_hash
from stimage.models._stimage import STImage
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder
from stimage.train import AlignmentOptimizerConfig, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData

_GENE_ENCODER = "gene_encoder"
_MISFITS = (LookupError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError)
"""What reading something of another kind or size raises."""


class AlignmentSaveMixin:
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
        directory = Path(directory)
        if (directory / "config.json").exists() and not overwrite:
            raise FileExistsError(f"{str(directory)!r} holds a model already: pass `overwrite=True` to replace it.")
        if isinstance(self.gene_encoder, STImage):
            self.gene_encoder.save(directory / _GENE_ENCODER, overwrite=overwrite)
        encoders = [self.image_encoder, self.niche_image_encoder]
        config = {
            "stimage_version": version("stimage"),
            "genes": self.genes.tolist(),
            "ensembl_ids": self.vocabulary.ensembl_ids,
            "config": asdict(self.config),
            "optimizer": asdict(self.optimizer),
            "patches": asdict(self.patches),
            "image_encoders": [None if encoder is None else encoder.config.name for encoder in encoders],
            "image_encoder_ids": [None if encoder is None else encoder_id(encoder) for encoder in encoders],
            "train_image_encoder": self.train_image_encoder,
            "gene_encoder": None if self.gene_encoder is None else type(self.gene_encoder).__name__,
            "gene_encoder_id": None if self.gene_encoder is None else _gene_encoder_id(self.gene_encoder),
            "n_spot_genes": self.n_spot_genes,
            "spot_context": self.spot_context,
            "niches": self.niches,
            "niche_key": self.niche_key,
            "seed": self.seed,
            "is_trained": self.is_trained,
            "n_tokens_seen": self.n_tokens_seen,
            "history": {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in self.history.items()},
            "manifest": self.manifest_record(),
        }
        save_checkpoint(directory, kind=type(self).__name__, weights=self._tensors(), config=config)

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
        weights, config = load_checkpoint(directory, kind=cls.__name__)
        model = cls.__new__(cls)
        try:
            model.vocabulary = Vocabulary(config["genes"], config["ensembl_ids"])
            model.config = AlignerConfig(**{**config["config"], "weights": tuple(config["config"]["weights"])})
            optimizer = config["optimizer"]
            model.optimizer = AlignmentOptimizerConfig(
                **{**optimizer, "weight_decay": tuple(optimizer["weight_decay"])}
            )
            model.patches = PatchSpec(**{name: tuple(widths) for name, widths in config["patches"].items()})
            model.train_image_encoder = bool(config["train_image_encoder"])
            model.spot_context, model.niches = bool(config["spot_context"]), bool(config["niches"])
            model.niche_key, model.seed = str(config["niche_key"]), int(config["seed"])
            model.n_spot_genes = int(config["n_spot_genes"])
            model.is_trained, model.n_tokens_seen = bool(config["is_trained"]), int(config["n_tokens_seen"])
            model.history = {name: pd.DataFrame({name: values}) for name, values in config["history"].items()}
            model.manifest = {**config["manifest"], "slides": pd.DataFrame(config["manifest"]["slides"])}
            if vocabulary_hash(model.genes) != model.manifest["vocabulary_sha256"]:
                raise ValueError("the checksum of the gene names does not match")
            spot, niche = zip(config["image_encoders"], config["image_encoder_ids"], strict=True)
            gene_encoder_kind, gene_encoder_id = config["gene_encoder"], config["gene_encoder_id"]
        except _MISFITS as error:
            raise _damaged(directory, error) from error
        model.image_encoder = _image_encoder_of(
            *spot, image_encoder, "image_encoder", seed=model.seed, trained=model.train_image_encoder
        )
        if niche == spot and niche_image_encoder is None and not model.train_image_encoder:
            model.niche_image_encoder = model.image_encoder
        else:
            if niche_image_encoder is None and niche[0] == spot[0]:
                niche_image_encoder = image_encoder
            model.niche_image_encoder = _image_encoder_of(
                *niche, niche_image_encoder, "niche_image_encoder", seed=model.seed
            )
        model.gene_encoder = _gene_encoder_of(gene_encoder_kind, gene_encoder_id, Path(directory), gene_encoder)
        try:
            axes, head = (
                {name: tensor.numpy() for name, tensor in tensors_under(weights, prefix).items()}
                for prefix in ("basis.", "head.")
            )
            model.basis = None
            if model.image_encoder is None and (axes or head):
                raise ValueError("there are weights for images, and no image encoder is named")
            if axes:
                model.basis = ImageBasis(axes.get("spot_image"), axes.get("niche_image"), model.spot_context)
            model.head = ExpressionHead.from_tensors(head) if head else None
            if model.head is not None and model.head.shape != (model.n_head_inputs, len(model.genes)):
                raise ValueError(f"the regression on images has shape {model.head.shape}")
            model.module = model._build_module()
            model.module.load_state_dict(tensors_under(weights, "module."))
        except _MISFITS as error:
            raise _damaged(directory, error) from error
        model.module.eval()
        model.paired = None
        if data is not None:
            model.paired = model._paired_for(data, image_dir=image_dir, cache_dir=cache_dir, images=True)
        return model


def _damaged(directory: str | Path, error: Exception) -> ValueError:
    return ValueError(f"Checkpoint {str(directory)!r} is damaged: its config and weights do not fit ({error}).")


def _image_encoder_of(
    name: str | None,
    expected: str | None,
    given: ImageEncoder | None,
    parameter: str,
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
            raise ValueError(
                f"The model was trained with the image encoder {name!r}: pass `{parameter}="
                f"stimage.modules.load_image_encoder({name!r}, weights=...)`."
            ) from error
    if trained:  # its weights are in the checkpoint
        return copy.deepcopy(given).eval().requires_grad_(False)
    if encoder_id(given) != expected:
        raise ValueError(
            f"`{parameter}` has other weights than the {name!r} that the model was trained with: pass the same ones."
        )
    return given.eval().requires_grad_(False)


def _gene_encoder_of(
    kind: str | None, expected: str | None, directory: Path, given: ScGPTEncoder | None
) -> STImage | ScGPTEncoder | None:
    """The frozen gene encoder of a checkpoint: saved beside it, or given."""
    if kind is None:
        return None
    if kind == STImage.__name__:
        encoder = STImage.load(directory / _GENE_ENCODER)
    elif isinstance(given, ScGPTEncoder):
        encoder = given
    else:
        found = "" if given is None else f", found {type(given).__name__}"
        raise ValueError(f"The model was trained with a frozen {kind}: pass it as `gene_encoder`{found}.")
    if _gene_encoder_id(encoder) != expected:
        raise ValueError(f"`gene_encoder` has other weights than the {kind} that the model was trained with.")
    return encoder


def _gene_encoder_id(encoder: STImage | ScGPTEncoder) -> str:
    """Hash of a gene encoder: its weights and its genes, 16 hexadecimal digits."""
    if isinstance(encoder, STImage):
        return encoder.model_id
    return tensors_id(encoder.state_dict(), repr(sorted(encoder.vocabulary.items())))
