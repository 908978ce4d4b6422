"""Models from a hub: huggingface-hub itself, and an HTTP server on this machine."""

import re
import sys

import numpy as np
import pytest
from hub_server import HubServer, running
from stained import aligner_of, tiny_encoder

from stimage.models import STAlign, STImage

pytest.importorskip("huggingface_hub")

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
NAME = "owner/model"
FILES = {"manifest.json", "config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "model"
    trained.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    return folder


@pytest.fixture
def server(shared):
    with running() as server:
        server.commits[NAME] = {COMMIT: shared}
        yield server


def use_hub(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Import huggingface-hub anew where it is used next: it reads the environment then."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The server as the hub, and a cache of the test."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "huggingface_hub"}
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        use_hub(patch, HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "cache"))
        yield server
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    sys.modules.update(before)


def load(name: str = NAME, revision: str | None = COMMIT, **options) -> STImage:
    return STImage.from_pretrained(name, revision=revision, **options)


def asked_for(server: HubServer) -> set[str]:
    return {path.rpartition("/")[2] for _, path in server.requests}


def test_round_trip(hub, trained, tissue):
    loaded = load()
    np.testing.assert_array_equal(loaded.get_latent_representation(tissue), trained.get_latent_representation())
    assert loaded.model_id == trained.model_id
    # What is not needed is not downloaded: neither the model card nor, above all, what someone pickled.
    assert asked_for(hub) == FILES
    assert all(f"/{NAME}/resolve/{COMMIT}/" in path for _, path in hub.requests)


def test_from_the_cache(hub, trained, monkeypatch):
    load()
    seen = len(hub.requests)
    assert load().model_id == load(local_files_only=True).model_id == trained.model_id
    assert len(hub.requests) == seen
    hub.close()
    assert load().model_id == trained.model_id
    with monkeypatch.context() as patch:
        use_hub(patch, HF_HUB_OFFLINE="1")
        assert load().model_id == trained.model_id
        with pytest.raises(
            FileNotFoundError, match=f"{OTHER}.* not among the files downloaded before, and HF_HUB_OFFLINE"
        ):
            load(revision=OTHER)


def test_files_that_were_not_downloaded(hub, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="manifest.json of 'owner/model' .*`local_files_only=True`: load it once"
    ):
        load(local_files_only=True)
    with monkeypatch.context() as patch:
        use_hub(patch, HF_HUB_OFFLINE="1")
        with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set: load it once with a connection"):
            load()
    assert not hub.requests


def test_a_download_that_was_cut_off_goes_on(hub, shared, trained, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    for name in ("manifest.json", "config.json"):
        (part / name).write_bytes((shared / name).read_bytes())
    hub.commits[NAME] = {COMMIT: part}
    with pytest.raises(FileNotFoundError, match="No model.safetensors in 'owner/model'.* not all of it was uploaded"):
        load()
    with pytest.raises(FileNotFoundError, match="model.safetensors of 'owner/model' .* not among the files downloaded"):
        load(local_files_only=True)
    hub.commits[NAME] = {COMMIT: shared}
    hub.requests.clear()
    assert load().model_id == trained.model_id
    assert asked_for(hub) == {"model.safetensors"}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_an_altered_file(hub, shared, tmp_path, file):
    altered = tmp_path / "altered"
    altered.mkdir()
    for name in FILES:
        content = bytearray((shared / name).read_bytes())
        content[len(content) // 2] ^= name == file
        (altered / name).write_bytes(content)
    hub.commits[NAME][OTHER] = altered
    load()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{file} in '.*' is truncated or altered") as caught:
            load(revision=OTHER)
        assert OTHER in str(caught.value)


def test_what_is_not_there(hub, shared, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"^No model 'owner/other' on {re.escape(hub.url)}, or it is not public"
    ):
        load("owner/other")
    with pytest.raises(FileNotFoundError, match=f"has no commit {OTHER}: check `revision`"):
        load(revision=OTHER)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((shared / "config.json").read_bytes())
    hub.commits["owner/bare"] = {COMMIT: bare}
    with pytest.raises(
        FileNotFoundError, match="No manifest.json in 'owner/bare'.*not a model that `save_pretrained` wrote"
    ):
        load("owner/bare")
    with pytest.raises(ValueError, match="of kind 'STImage', not 'STAlign'"):
        STAlign.from_pretrained(NAME, revision=COMMIT)


def test_a_manifest_that_leads_elsewhere(hub, shared, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    manifest = (shared / "manifest.json").read_text().replace("model.safetensors", "../../../../secret")
    (folder / "manifest.json").write_text(manifest)
    hub.commits[NAME][OTHER] = folder
    with pytest.raises(ValueError, match="manifest.json in .* is damaged: it lists"):
        load(revision=OTHER)
    assert asked_for(hub) == {"manifest.json"}


def test_nothing_is_asked_for_without_a_pinned_commit(hub, shared, trained):
    for revision in ("main", "v1.0", COMMIT[:7], COMMIT.upper(), f"{COMMIT} ", ""):
        with pytest.raises(ValueError, match=r"is not the hash of a commit.*HfApi\(\).model_info\('owner/model'\).sha"):
            load(revision=revision)
    with pytest.raises(FileNotFoundError, match="'owner/model' is not a folder here. .* pass `revision=`"):
        load(revision=None)
    for name in (
        "model",
        "a/b/c",
        "../model",
        "/nowhere/model",
        "owner/model/",
        "owner/../model",
        "x" * 5000,
        "o/\0",
        "",
    ):
        with pytest.raises(FileNotFoundError, match="neither a folder here nor the name of a model"):
            load(name)
    with pytest.raises(TypeError, match="`source` must be a path, found NoneType"):
        load(None)
    with pytest.raises(TypeError, match="`revision` must be a string, found int"):
        load(revision=3)
    assert STImage.from_pretrained(shared).model_id == trained.model_id
    assert not hub.requests


def test_a_folder_of_the_same_name(hub, shared, monkeypatch, trained):
    """A folder is never taken for the commit that was asked for."""
    monkeypatch.chdir(shared.parent)
    with pytest.raises(ValueError, match="`source`='model' is a folder here, which has no `revision`"):
        load("model")
    assert STImage.from_pretrained("model").model_id == trained.model_id
    assert not hub.requests


def test_an_aligner_and_its_gene_encoder(hub, stained, tmp_path):
    encoder = STImage(stained, window=6, n_pool_genes=40, n_genes=20)
    model = aligner_of(stained, gene_encoder=encoder, training={"max_epochs": 1})
    model.save_pretrained(tmp_path / "aligner")
    hub.commits["owner/aligner"] = {COMMIT: tmp_path / "aligner"}
    loaded = STAlign.from_pretrained("owner/aligner", revision=COMMIT, image_encoder=tiny_encoder())
    assert loaded.model_id == model.model_id
    assert loaded.gene_encoder.model_id == encoder.model_id
    expected = model.get_latent_representation(stained)
    np.testing.assert_array_equal(loaded.get_latent_representation(stained), expected)
    assert len([path for method, path in hub.requests if method == "GET"]) == 5
