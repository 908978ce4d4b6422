from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from stimage import _keys, _validate
from stimage._files import written_whole
from stimage._paths import path_of
from stimage.data import Vocabulary
from stimage.models._setup import check_setup, notes_of
from stimage.models.checkpoints._config import StoredConfig, check_config_size, naming_checkpoint, sealed
from stimage.models.checkpoints._hub import folder_of
from stimage.models.checkpoints._manifest import MODEL_FILES, check_files, write_manifest
from stimage.models.checkpoints._model_card import check_card_options, model_card
from stimage.models.checkpoints._weights import loaded_tensors, stored_tensors, tensors_id
from stimage.train import is_first_process, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from anndata import AnnData

CARD = "README.md"


class SlideModel:
    """A model of slides: its genes, what it was made from, and its files.

    A model class has a name, ``_tensors`` and ``_config``, which say all that it knows, and ``_restore``, which takes both
    back.
    """

    vocabulary: Vocabulary
    manifest: dict[str, Any]
    """Slides that the model was made from, as a table, and a hash of the vocabulary."""
    seed: int
    _reads_arrays: ClassVar[bool] = False
    """Whether its tensors are arrays of numpy, so that it is read without torch."""

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes of the vocabulary."""
        return self.vocabulary.genes

    @property
    def model_id(self) -> str:
        """Hash of all that was learned, 16 hexadecimal digits."""
        return tensors_id(self._tensors())

    @staticmethod
    def setup_anndata(
        adata: AnnData,
        *,
        layer: str | None = None,
        slide_key: str | None = None,
        grid_key: str = _keys.GRID,
        donor_key: str | None = None,
    ) -> None:
        """Say where an AnnData keeps raw counts, slides and donors.

        Parameters
        ----------
        adata
            AnnData after :func:`stimage.pp.compact_grid`.
        layer
            Layer with raw counts; ``X`` by default.
        slide_key
            Key in ``obs`` of each observation's slide. By default the one that the grid was built with.
        grid_key
            ``key_added`` of the grid.
        donor_key
            Key in ``obs`` of who the tissue is from, which a model notes: :func:`stimage.benchmark.compare` refuses to
            test on a donor that was trained on.

        Returns
        -------
        None
            Writes ``uns["stimage"]["setup"]``.

        Raises
        ------
        KeyError
            If grid, layer, slide key or donor key are missing.
        ValueError
            If the counts are not raw counts.
        """
        _validate.check_anndata(adata)
        setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
        check_setup(adata, setup, backed=True)
        setup = {key: value or "" for key, value in setup.items()}
        adata.uns[_keys.STIMAGE] = {**notes_of(adata), "setup": setup}

    def provenance(self, adata: AnnData | None = None) -> dict[str, Any]:
        """What to note beside a result.

        Parameters
        ----------
        adata
            What the result is written to; without it nothing is said of its genes.

        Returns
        -------
        dict
            Model id, version, what kind of model it is, vocabulary hash and gene overlap; h5ad-writable.
        """
        return {
            "model": type(self).__name__,
            "model_id": self.model_id,
            "stimage_version": version("stimage"),
            "vocabulary_sha256": self.manifest["vocabulary_sha256"],
            **self._facts(),
            **({} if adata is None else self.vocabulary.match(adata).notes()),
        }

    def embedding_record(self, adata: AnnData | None = None, **options: Any) -> dict[str, Any]:
        """What to note beside an embedding.

        Parameters
        ----------
        adata
            What was embedded, if that is one AnnData.
        options
            Those of ``get_latent_representation`` that the embedding was made with.

        Returns
        -------
        dict
            The entries of ``uns["stimage"]["X_stimage"]``, h5ad-writable.
        """
        return {
            **self.provenance(adata),
            **self._embedding_facts(**options),
            "manifest": json.dumps(self.manifest_record(), sort_keys=True),
        }

    def manifest_record(self) -> dict[str, Any]:
        """What the model was made from, JSON-compatible.

        Returns
        -------
        dict
            ``slides``: a list with name, number of sites, fingerprints and donor of each; ``vocabulary_sha256``.
        """
        return {**self.manifest, "slides": self.manifest["slides"].to_dict("records")}

    def save(self, directory: str | Path, *, overwrite: bool = False, half_precision: bool = False) -> None:
        """Write the model as safetensors and JSON; of several processes that trained together the first one does.

        Frozen image encoders and scGPT, with which an aligner was trained, are named, not copied: their weights are often not
        ours to pass on. A gene encoder that is an :class:`STImage` is saved in a folder of its own.

        Parameters
        ----------
        directory
            Where to write; made when absent.
        overwrite
            Replace a model that is there.
        half_precision
            Store weights that were trained as 16-bit floating point numbers, in half the space; a loaded model computes in
            32 bits again.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is not set.
        ValueError
            If a weight is larger than half precision can hold.
        """
        _validate.check_path("directory", directory)
        if not is_first_process():
            return
        folder = path_of(directory)
        if (folder / MODEL_FILES[0]).exists() and not overwrite:
            raise FileExistsError(f"{str(directory)!r} holds a model already: pass `overwrite=True` to replace it.")
        tensors = stored_tensors(self._tensors(), half_precision=half_precision)
        self._save_parts(folder, overwrite=overwrite)
        config = {
            "stimage_version": version("stimage"),
            "genes": self.genes.tolist(),
            "ensembl_ids": self.vocabulary.ensembl_ids,
            "seed": self.seed,
            "manifest": self.manifest_record(),
            **self._config(),
        }
        save_checkpoint(folder, kind=type(self).__name__, weights=tensors, config=sealed(config))

    @classmethod
    def _load(cls, directory: str | Path, **given: Any) -> Self:
        """A model as it was saved; ``given`` is what its files do not hold."""
        _validate.check_path("directory", directory)
        check_config_size(path_of(directory))
        weights, config = load_checkpoint(directory, kind=cls.__name__, arrays=cls._reads_arrays)
        model = cls.__new__(cls)
        with naming_checkpoint(directory):
            stored = StoredConfig(config)
            model.vocabulary = stored.vocabulary()
            model.seed = stored.seed()
            model.manifest = stored.manifest(model.vocabulary)
            model._restore(stored, weights, path_of(directory), **given)
        return model

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        license: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        **options: Any,
    ) -> None:
        """Write the model as a folder to share: what :meth:`save` writes, a model card and checksums.

        The folder can be uploaded as it is to the Hugging Face hub (``hf upload OWNER/NAME folder``), or copied anywhere.
        It names the slides that the model was made from and their donors, and holds hashes of their counts.

        Parameters
        ----------
        directory
            Where to write; made when absent.
        license
            Name of the licence of the weights, such as ``"cc-by-4.0"``; none is stated by default.
        tags
            Words to find the model by, beside ``"biology"`` and ``"spatial-transcriptomics"``.
        description
            What the model is for and where its limits are, in Markdown; the beginning of the model card.
        options
            Passed on to :meth:`save`, such as ``overwrite=True``, which replaces the model card too.

        Returns
        -------
        None
            Writes ``config.json``, ``model.safetensors``, ``README.md`` and ``manifest.json``.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is not set, or any model card.
        ValueError
            If licence or tags are no names.

        Examples
        --------
        >>> import tempfile
        >>> import stimage as sti
        >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
        >>> sti.pp.compact_grid(adata)
        >>> model = sti.models.SmoothedPCA(adata)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder, license="cc-by-4.0", tags=["simulated"])
        ...     sti.models.SmoothedPCA.from_pretrained(folder).model_id == model.model_id
        True
        """
        _validate.check_path("directory", directory)
        check_card_options(license, tags, description)
        if not is_first_process():
            return
        folder = path_of(directory)
        if (folder / CARD).exists() and not options.get("overwrite"):
            raise FileExistsError(f"{str(folder)!r} has a {CARD} already: pass `overwrite=True` to replace it.")
        self.save(folder, **options)
        half = {"half_precision": options.get("half_precision", False)}
        text = model_card(
            type(self).__name__,
            {
                # Of the model that will be loaded, whose weights are others in half precision.
                "model id": f"`{tensors_id(loaded_tensors(stored_tensors(self._tensors(), **half)))}`",
                "genes": f"{len(self.genes):,}, {len(self.vocabulary.ensembl_ids):,} of them with their Ensembl id",
                **self._card_facts(),
            },
            self.manifest["slides"],
            arguments=self._card_arguments(),
            license=license,
            tags=tags,
            description=description,
        )
        with written_whole(folder / CARD) as (draft,):
            draft.write_text(text, encoding="utf-8")
        write_manifest(folder, self._file_names())

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, local_files_only: bool = False, **options: Any
    ) -> Self:
        """Read a model that :meth:`save_pretrained` wrote, from a folder or from a model hub.

        All files are compared with the manifest before they are read, and nothing is unpickled. A folder is read without
        network and without ``huggingface-hub``. Downloaded files are kept in the cache of ``huggingface-hub``; a model that
        is there is loaded without asking the hub.

        Parameters
        ----------
        source
            A folder; or ``"owner/name"``, a model on the Hugging Face hub or the one that the environment variable
            ``HF_ENDPOINT`` names.
        revision
            Hash of a commit on the hub, all 40 digits: what is loaded is the same every time. Branches are refused.
        local_files_only
            Load a model of the hub only if it was downloaded before; ``HF_HUB_OFFLINE=1`` does the same.
        options
            Passed on to ``load``, such as ``data``.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        ConnectionError
            If the hub cannot be reached and the model was not downloaded before.
        FileNotFoundError
            If there is no such folder, model or commit, or a file is missing.
        ImportError
            If a model is to be downloaded and ``huggingface-hub`` is missing.
        ValueError
            If ``revision`` is not the hash of a commit, or files are of another kind or version, truncated or altered.

        Examples
        --------
        >>> from stimage.models import STImage
        >>> STImage.from_pretrained("owner/name", revision="main")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `revision`='main' is not the hash of a commit, 40 hexadecimal digits. ...
        """
        folder = folder_of(source, revision=revision, local_files_only=local_files_only)
        check_files(folder)
        return cls.load(folder, **options)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        directory
            The folder.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        ValueError
            If it is of another kind or version, truncated or altered.
        """
        return cls._load(directory)

    def _tensors(self) -> dict[str, Any]:
        """All that was learned, by its name in a checkpoint."""
        raise NotImplementedError

    def _config(self) -> dict[str, Any]:
        """All that the model knows beside its tensors and what every model has; JSON-compatible."""
        raise NotImplementedError

    def _restore(self, stored: StoredConfig, weights: dict[str, Any], folder: Path) -> None:
        """Take back what ``_config`` and ``_tensors`` gave; raise ``DamagedError`` if it is not that."""
        raise NotImplementedError

    def _embedding_facts(self, **options: Any) -> dict[str, Any]:
        """What is noted beside an embedding that was made with some options of ``get_latent_representation``."""
        return {}

    def _facts(self) -> dict[str, Any]:
        """What is noted beside a result of this kind of model."""
        return {}

    def _card_facts(self) -> dict[str, str]:
        """Rows of the model card, by name."""
        raise NotImplementedError

    def _card_arguments(self) -> str:
        """What a user must pass to load the model."""
        return ""

    def _save_parts(self, folder: Path, *, overwrite: bool) -> None:
        """Save models that this one holds."""

    def _file_names(self) -> tuple[str, ...]:
        """Files of the model, in its folder."""
        return MODEL_FILES
