from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from stimage import _validate
from stimage._files import written_whole
from stimage._paths import path_of
from stimage.models.checkpoints._hub import folder_of
from stimage.models.checkpoints._manifest import check_files, write_manifest
from stimage.models.checkpoints._model_card import check_card_options, model_card
from stimage.train import is_first_process

CARD = "README.md"


class ShareMixin:
    """Folders that a model hub takes, of a model that can be saved and loaded."""

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
        It names the slides that the model was trained on and their donors, and holds hashes of their counts.

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
        >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder, license="cc-by-4.0", tags=["simulated"])
        ...     sti.models.STImage.from_pretrained(folder).model_id == model.model_id
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
        text = model_card(self._as_saved(folder), license=license, tags=tags, description=description)
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
            Passed on to :meth:`load`, such as ``data``.

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
