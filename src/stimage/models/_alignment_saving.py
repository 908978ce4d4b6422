from __future__ import annotations

import hashlib
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
from stimage.models._image_features import PatchSpec, encoder_id
from stimage.models._saving import tensors_under
from stimage.models._setup import vocabulary_hash
from stimage.models._stimage import STImage
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder, load_image_encoder
from stimage.train import AlignmentOptimizerConfig, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData

_GENE_ENCODER = "gene_encoder"


class AlignmentSaveMixin:
    """Saving, loading and provenance of an aligner."""

    @property
    def model_id(self) -> str:
        """Hash of all that was learned, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

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
            The encoders that the model was trained with, where they need weights from you.
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
            names, ids = config["image_encoders"], config["image_encoder_ids"]
            gene_encoder_kind = config["gene_encoder"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(directory, error) from error
        model.image_encoder, model.niche_image_encoder = _encoders_of(
            names, ids, (image_encoder, niche_image_encoder), trained=model.train_image_encoder
        )
        model.gene_encoder = _gene_encoder_of(gene_encoder_kind, Path(directory), gene_encoder)
        try:
            axes, head = (
                {name: tensor.numpy() for name, tensor in tensors_under(weights, prefix).items()}
                for prefix in ("basis.", "head.")
            )
            model.basis = None
            if axes:
                model.basis = ImageBasis(axes.get("spot_image"), axes["niche_image"], model.spot_context)
            model.head = ExpressionHead.from_tensors(head) if head else None
            model.module = model._build_module()
            model.module.load_state_dict(tensors_under(weights, "module."))
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
            raise _damaged(directory, error) from error
        model.module.eval()
        model.paired = None
        if data is not None:
            model.paired = model._paired_for(data, image_dir=image_dir, cache_dir=cache_dir, images=True)
        return model


def _damaged(directory: str | Path, error: Exception) -> ValueError:
    return ValueError(f"Checkpoint {str(directory)!r} is damaged: its config and weights do not fit ({error}).")


def _encoders_of(
    names: list[str | None],
    ids: list[str | None],
    given: tuple[ImageEncoder | None, ImageEncoder | None],
    *,
    trained: bool,
) -> tuple[ImageEncoder | None, ImageEncoder | None]:
    """Encoders of spots and of niches that a checkpoint names: those given, or built by name; the same weights."""
    found: list[ImageEncoder | None] = []
    for parameter, name, expected, encoder in zip(
        ("image_encoder", "niche_image_encoder"), names, ids, given, strict=True
    ):
        if name is None:
            found.append(None)
            continue
        if encoder is None and found and names[0] == name and ids[0] == expected:
            found.append(found[0])
            continue
        if encoder is None:
            try:
                encoder = load_image_encoder(name)
            except ValueError as error:
                raise ValueError(
                    f"The model was trained with the image encoder {name!r}: pass `{parameter}="
                    f"stimage.modules.load_image_encoder({name!r}, weights=...)`."
                ) from error
        is_trained_along = trained and not found
        if not is_trained_along and encoder_id(encoder) != expected:
            raise ValueError(
                f"`{parameter}` has other weights than the {name!r} that the model was trained with: pass the same ones."
            )
        found.append(encoder.eval().requires_grad_(False))
    return found[0], found[1]


def _gene_encoder_of(kind: str | None, directory: Path, given: ScGPTEncoder | None) -> STImage | ScGPTEncoder | None:
    if kind == "STImage":
        return STImage.load(directory / _GENE_ENCODER)
    if kind is not None and given is None:
        raise ValueError(f"The model was trained with a frozen {kind}: pass it as `gene_encoder`.")
    return given
