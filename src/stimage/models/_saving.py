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
from stimage.data import Corpus, SampleUnit, Vocabulary, WindowSpec
from stimage.models._readout import Readout
from stimage.models._setup import vocabulary_hash
from stimage.models._units import build_module
from stimage.modules import AutoencoderConfig
from stimage.train import OptimizerConfig, is_first_process, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData


class SaveMixin:
    """Saving, loading and provenance of a model that owns a module, a vocabulary and a manifest."""

    @property
    def model_id(self) -> str:
        """Hash of the weights and of the readout of the combined embedding, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All that was learned, by its name in a checkpoint."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        if self.readout is not None:
            tensors |= {f"readout.{name}": torch.from_numpy(part) for name, part in self.readout.tensors().items()}
        return tensors

    def provenance(self, adata: AnnData | None = None) -> dict[str, Any]:
        """What to note beside a result.

        Parameters
        ----------
        adata
            What the result is written to; without it nothing is said of its genes.

        Returns
        -------
        dict
            Model id, epochs of adaptation, version, vocabulary hash and gene overlap; h5ad-writable.
        """
        return {
            "model": type(self).__name__,
            "unit": self.unit.name,
            "model_id": self.model_id,
            "adapted_from": self.manifest.get("adapted_from", ""),
            "adapted_epochs": self.manifest.get("adapted_epochs", 0),
            "stimage_version": version("stimage"),
            "vocabulary_sha256": self.manifest["vocabulary_sha256"],
            **({} if adata is None else self.vocabulary.match(adata).notes()),
        }

    def manifest_record(self) -> dict[str, Any]:
        """What the model was trained on, JSON-compatible.

        Returns
        -------
        dict
            ``slides``: a list with name, number of sites, fingerprints and donor of each; ``vocabulary_sha256``.
        """
        return {**self.manifest, "slides": self.manifest["slides"].to_dict("records")}

    def save(self, directory: str | Path, *, overwrite: bool = False, half_precision: bool = False) -> None:
        """Write the model as safetensors and JSON; of several processes that trained together the first one does.

        Parameters
        ----------
        directory
            Where to write; made when absent.
        overwrite
            Replace a model that is there.
        half_precision
            Store weights as 16-bit floating point numbers, in half the space; a loaded model computes in 32 bits again.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is not set.
        """
        _validate.check_path("directory", directory)
        if not is_first_process():
            return
        if (Path(directory) / "config.json").exists() and not overwrite:
            raise FileExistsError(f"{str(directory)!r} holds a model already: pass `overwrite=True` to replace it.")
        config = {
            "stimage_version": version("stimage"),
            "genes": self.genes.tolist(),
            "ensembl_ids": self.vocabulary.ensembl_ids,
            "spec": asdict(self.spec),
            "unit": asdict(self.unit),
            "autoencoder": asdict(self.autoencoder),
            "optimizer": asdict(self.optimizer),
            "target_sum": self.target_sum,
            "seed": self.seed,
            "is_trained": self.is_trained,
            "n_tokens_seen": self.n_tokens_seen,
            "history": {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in self.history.items()},
            "manifest": self.manifest_record(),
        }
        weights = self._tensors()
        if half_precision:
            weights = {
                name: tensor.half() if name.startswith("module.") else tensor for name, tensor in weights.items()
            }
        save_checkpoint(directory, kind=type(self).__name__, weights=weights, config=config)

    @classmethod
    def load(cls, directory: str | Path, data: AnnData | Sequence[AnnData] | Corpus | None = None) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        directory
            The checkpoint.
        data
            Slides for :meth:`train` and :meth:`get_latent_representation` without arguments.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is of another kind or version, truncated or altered.
        """
        _validate.check_path("directory", directory)
        weights, config = load_checkpoint(directory, kind=cls.__name__)
        model = cls.__new__(cls)
        try:
            model.vocabulary = Vocabulary(config["genes"], config["ensembl_ids"])
            model.spec = WindowSpec(**config["spec"])
            model.unit = SampleUnit(**config["unit"])
            model.autoencoder = AutoencoderConfig(**config["autoencoder"])
            model.optimizer = OptimizerConfig(**config["optimizer"])
            model.target_sum = float(config["target_sum"])
            model.seed = int(config["seed"])
            model.is_trained = bool(config["is_trained"])
            model.n_tokens_seen = int(config["n_tokens_seen"])
            model.history = {name: pd.DataFrame({name: values}) for name, values in config["history"].items()}
            model.manifest = {**config["manifest"], "slides": pd.DataFrame(config["manifest"]["slides"])}
            if vocabulary_hash(model.genes) != model.manifest["vocabulary_sha256"]:
                raise ValueError("the checksum of the gene names does not match")
            model.module = build_module(len(model.genes), model.autoencoder, model.unit)
            model.module.load_state_dict(tensors_under(weights, "module."))
            readout = {name: tensor.numpy() for name, tensor in tensors_under(weights, "readout.").items()}
            model.readout = Readout.from_tensors(readout) if readout else None
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"Checkpoint {str(directory)!r} is damaged: its config and weights do not fit ({error})."
            ) from error
        model.module.eval()
        model.corpus = None if data is None else model._corpus_for(data)
        return model


def tensors_under(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
