from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from stimage import _validate
from stimage._paths import path_of
from stimage.data import Corpus, SampleUnit, Vocabulary, WindowSpec
from stimage.models._options import check_model_options, check_unit_options
from stimage.models._setup import vocabulary_hash
from stimage.models.checkpoints._config import (
    LARGEST_WINDOW,
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
from stimage.models.checkpoints._manifest import MODEL_FILES
from stimage.models.checkpoints._sharing import ShareMixin
from stimage.models.checkpoints._weights import check_prefixes, check_readout, load_module, tensors_id, tensors_under
from stimage.models.embedding._readout import Readout
from stimage.models.embedding._units import build_module
from stimage.modules import AutoencoderConfig
from stimage.train import OptimizerConfig, is_first_process, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData


class SaveMixin(ShareMixin):
    """Saving, loading and provenance of a model that owns a module, a vocabulary and a manifest."""

    @property
    def model_id(self) -> str:
        """Hash of the weights and of the readout of the context embedding, 16 hexadecimal digits."""
        return tensors_id(self._tensors())

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
        if (path_of(directory) / "config.json").exists() and not overwrite:
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
            if not all(tensor.isfinite().all() for tensor in weights.values()):
                raise ValueError(
                    "`half_precision` holds numbers up to 65504, and some weights are larger: leave it out."
                )
        save_checkpoint(directory, kind=type(self).__name__, weights=weights, config=sealed(config))

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
        check_config_size(path_of(directory))
        weights, config = load_checkpoint(directory, kind=cls.__name__)
        model = cls.__new__(cls)
        try:
            check_unaltered(config)
            model.vocabulary = Vocabulary(config["genes"], typed(config["ensembl_ids"], dict, "ensembl_ids"))
            model.spec = read_dataclass(WindowSpec, config["spec"], "spec")
            model.unit = read_dataclass(SampleUnit, config["unit"], "unit")
            model.autoencoder = read_dataclass(AutoencoderConfig, config["autoencoder"], "autoencoder")
            model.optimizer = read_dataclass(OptimizerConfig, config["optimizer"], "optimizer")
            model.target_sum = typed(config["target_sum"], float, "target_sum")
            model.seed = config["seed"]
            model.is_trained = typed(config["is_trained"], bool, "is_trained")
            model.n_tokens_seen = config["n_tokens_seen"]
            model.history = read_history(config["history"])
            model.manifest = read_manifest(config["manifest"])
            model._check_values()
            check_prefixes(weights, ("module.", "readout."))
            if model.unit.name != "patch":
                # Older models of spots put nothing in the place of a hidden value, which a token of zero does.
                weights.setdefault("module.mask_token", torch.zeros_like(weights["module.norm.weight"]))
            model.module = load_module(
                lambda: build_module(len(model.genes), model.autoencoder, model.unit),
                tensors_under(weights, "module."),
                n_blocks=model.autoencoder.n_layers + model.autoencoder.decoder_layers,
            )
            readout = tensors_under(weights, "readout.")
            model.readout = None
            if readout:
                check_readout(readout, model.autoencoder.dim)
                model.readout = Readout.from_tensors({name: tensor.numpy() for name, tensor in readout.items()})
        except MISFITS as error:
            raise damaged(directory, error) from error
        model.module.eval()
        model.corpus = None if data is None else model._corpus_for(data)
        return model

    def _file_names(self) -> tuple[str, ...]:
        return MODEL_FILES

    def _as_saved(self, directory: Path) -> Self:
        """The model that will be loaded, whose weights are others in half precision."""
        return type(self).load(directory)

    def _card_facts(self) -> dict[str, str]:
        spec, unit = self.spec, self.unit.name
        sample = f"{spec.window} x {spec.window} sites" if unit == "patch" else f"{unit}, {spec.window**2} in a sample"
        return {
            "window" if unit == "patch" else "unit": f"{sample}, {spec.n_genes} genes, {spec.mask_ratio:.0%} hidden"
        }

    def _card_encoders(self) -> str:
        return ""

    def _check_values(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` for values that no model is built with."""
        spec, unit = self.spec, self.unit
        check_model_options(
            preset="default",
            gene_selection=spec.gene_selection,
            masking=spec.masking,
            mask_ratio=spec.mask_ratio,
            window=spec.window,
            n_genes=spec.n_genes,
            n_pool_genes=len(self.genes),
            seed=self.seed,
        )
        check_unit_options(
            unit=unit.name,
            masking=spec.masking,
            window=spec.window,
            n_neighbors=unit.n_neighbors,
            neighbor_weights=unit.neighbor_weights,
            n_macro_domains=unit.n_macro_domains,
        )
        _validate.check_positive("n_tokens_seen", self.n_tokens_seen, smallest=0)
        _validate.check_range("target_sum", self.target_sum, 0, math.inf)
        if spec.window > LARGEST_WINDOW:
            raise ValueError(f"`window` must be at most {LARGEST_WINDOW}, found {spec.window}")
        if vocabulary_hash(self.genes) != self.manifest["vocabulary_sha256"]:
            raise ValueError("the checksum of the gene names does not match")
