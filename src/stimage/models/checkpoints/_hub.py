"""Where a model comes from: a folder, or a model hub that speaks Hugging Face's protocol."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stimage import _validate
from stimage._paths import path_of
from stimage.models.checkpoints._manifest import MANIFEST, listed_files

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_NAME = re.compile(f"{_PART}/{_PART}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def folder_of(source: str | Path, *, revision: str | None, local_files_only: bool) -> Path:
    """The folder of a model, downloaded if it is the name of one on a hub.

    Nothing is sent anywhere unless ``source`` is not a folder and ``revision`` is the hash of a commit.
    """
    _validate.check_path("source", source)
    if revision is not None:
        _validate.check_text("revision", revision)
    shown = repr(os.fspath(source))[:200]
    if os.path.isdir(os.path.expanduser(source)):
        if revision is not None:
            raise ValueError(
                f"`source`={shown} is a folder here, which has no `revision`: leave it out; or, for the model of that name "
                "on the hub, work in another folder."
            )
        return path_of(source)
    if not isinstance(source, str) or not _HUB_NAME.fullmatch(source):
        raise FileNotFoundError(
            f"`source`={shown} is neither a folder here nor the name of a model on the hub ('owner/name'): check its spelling."
        )
    if revision is None:
        raise FileNotFoundError(
            f"`source`={shown} is not a folder here. To download the model of that name from the hub, pass `revision=` with "
            "the hash of a commit."
        )
    if not _COMMIT.fullmatch(revision):
        raise ValueError(
            f"`revision`={revision[:80]!r} is not the hash of a commit, 40 hexadecimal digits. Branches, tags and short hashes "
            "may stand for other files tomorrow: copy the hash from the model's page (Files, History), or ask for it with "
            f"`huggingface_hub.HfApi().model_info({source!r}).sha`."
        )
    return _downloaded(source, revision, local_files_only)


def _downloaded(name: str, revision: str, local_files_only: bool) -> Path:
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise ImportError(
            "Downloading needs huggingface-hub: `pip install 'stimage[hub]'`, or download the files in another way and pass "
            "their folder."
        ) from error
    # Its base is the error of all requests of the library in use, which is another one from version to version.
    unreachable = (OSError, *HfHubHTTPError.__bases__)
    where = f"{name!r} at {revision} on {constants.ENDPOINT}"

    def download(file: str) -> Path:
        try:
            return Path(hf_hub_download(name, file, revision=revision, local_files_only=local_files_only))
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"No model {name!r} on {constants.ENDPOINT}, or it is not public: check the name, or log in with "
                "`hf auth login`."
            ) from error
        except RevisionNotFoundError as error:
            raise FileNotFoundError(
                f"The model {name!r} on {constants.ENDPOINT} has no commit {revision}: check `revision`."
            ) from error
        except LocalEntryNotFoundError as error:
            if local_files_only or constants.HF_HUB_OFFLINE:
                asked = "`local_files_only=True`" if local_files_only else "HF_HUB_OFFLINE is set"
                raise FileNotFoundError(
                    f"{file} of {where} is not among the files downloaded before, and {asked}: load it once with a "
                    "connection."
                ) from error
            raise ConnectionError(
                f"{file} of {where} was not downloaded before, and cannot be now: {str(error.__cause__ or error)[:300]}"
            ) from error
        except EntryNotFoundError as error:
            raise FileNotFoundError(
                f"No {file} in {where}: it is not a model that `save_pretrained` wrote, or not all of it was uploaded."
            ) from error
        except unreachable as error:
            raise ConnectionError(f"{file} of {where} cannot be downloaded: {str(error)[:300]}") from error

    # All files of a commit are put into one folder; those that are there already are not asked for.
    folder = download(MANIFEST).parent
    for file in listed_files(folder):
        download(file)
    return folder
