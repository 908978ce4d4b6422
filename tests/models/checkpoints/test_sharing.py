"""Folders to share: what is in them, and that they are checked."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from checkpoints import seal, sha256
from stained import tiny_encoder

from stimage import tl
from stimage.models import STAlign, STImage

DESCRIPTION = "For a test. Not for anything else."


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "model"
    trained.save_pretrained(folder, license="cc-by-4.0", tags=["simulated", "biology"], description=DESCRIPTION)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_round_trip(trained, folder, tissue):
    loaded = STImage.from_pretrained(folder, data=tissue)
    np.testing.assert_array_equal(loaded.get_latent_representation(), trained.get_latent_representation())
    tl.embed(tissue, STImage.from_pretrained(str(folder)), mode="visible")
    expected = trained.get_latent_representation(mode="visible")
    np.testing.assert_array_equal(tissue.obsm["X_stimage"], expected)


def test_files(trained, folder, tmp_path):
    trained.save(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "manifest.json", "model.safetensors"}
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert files == {
        name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
        for name in ("config.json", "model.safetensors")
    }


def test_model_card(trained, folder, tmp_path):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "stimage",
        "license": "cc-by-4.0",
        "tags": ["biology", "spatial-transcriptomics", "simulated"],
    }
    assert f"# STImage model\n\n{DESCRIPTION}\n" in text
    assert f"| model id | `{trained.model_id}` |" in text
    assert f"| parameters | {sum(tensor.numel() for tensor in trained.module.parameters()):,} |" in text
    assert "| genes | 60, 0 of them with their Ensembl id |" in text
    assert "| window | 8 x 8 sites, 32 genes, " in text
    assert "| trained | 4 epochs, loss " in text
    (slide,) = trained.manifest["slides"].itertuples()
    assert f"| {slide.name} | not stated | {slide.n_sites} |" in text
    trained.save_pretrained(tmp_path, half_precision=True)
    text = (tmp_path / "README.md").read_text()
    assert "license" not in yaml.safe_load(text.split("---\n", 2)[1])
    model_id = STImage.from_pretrained(tmp_path).model_id
    assert model_id != trained.model_id
    assert f"| model id | `{model_id}` |" in text


def test_names_do_not_break_the_card(copied, tmp_path):
    model = STImage.from_pretrained(copied)
    model.manifest["slides"]["name"] = "a | b\n---\n<script>*`[x](y)"
    model.save_pretrained(tmp_path / "again")
    text = (tmp_path / "again" / "README.md").read_text()
    assert r"| a \| b --- &lt;script&gt;\*\`\[x\](y) | not stated |" in text
    assert text.count("\n---\n") == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"license": "mit\ntags: x"}, ValueError, "`license` must be a name"),
        ({"license": ""}, ValueError, "`license` must be a name"),
        ({"license": 3}, TypeError, "`license` must be a string, found int"),
        ({"tags": "human"}, TypeError, "`tags` must be a list of names, found str"),
        ({"tags": ["two words"]}, ValueError, "`tags` must be a name"),
        ({"tags": [None]}, TypeError, "`tags` must be a string"),
        ({"description": 5}, TypeError, "`description` must be a string"),
        ({"unknown": 5}, TypeError, "unknown"),
    ],
)
def test_bad_options(trained, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        trained.save_pretrained(tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


def test_overwriting(trained, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(FileExistsError, match="has a README.md already: pass `overwrite=True`"):
        trained.save_pretrained(copied)
    (copied / "README.md").unlink()
    with pytest.raises(FileExistsError, match="holds a model already"):
        trained.save_pretrained(copied)
    assert {path.name for path in copied.iterdir()} == before.keys() - {"README.md"}
    options = {"license": "cc-by-4.0", "tags": ["simulated"], "description": DESCRIPTION}
    trained.save_pretrained(copied, overwrite=True, **options)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_the_card_may_be_edited(trained, copied):
    (copied / "README.md").write_text("Other words.")
    assert STImage.from_pretrained(copied).model_id == trained.model_id


def test_links_are_followed(trained, copied, tmp_path):
    """As in the cache of huggingface-hub."""
    (tmp_path / "links").mkdir()
    for path in copied.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "links")
    assert STImage.from_pretrained(tmp_path / "folder").model_id == trained.model_id


def test_a_folder_of_save_has_no_manifest(trained, tmp_path):
    trained.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="No manifest.json in .*: a folder of `save` is read by `load`"):
        STImage.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="No manifest.json in"):
        STImage.from_pretrained("/")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_altered_and_missing_files(copied, name):
    content = (copied / name).read_bytes()
    for changed in (content[:-1], content + b"\n", b""):
        (copied / name).write_bytes(changed)
        with pytest.raises(ValueError, match=f"^{name} in '.*' is truncated or altered.*get the model again"):
            STImage.from_pretrained(copied)
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"^No {name} in '.*', which its manifest.json lists"):
        STImage.from_pretrained(copied)


def with_files(change):
    def changed(document):
        change(document["files"])
        return document

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: [], ""),
        (lambda document: {**document, "format_version": 2}, r"format version 2e\+00, newer than 1: update stimage"),
        (lambda document: {**document, "format_version": 10**400}, ""),
        (lambda document: {**document, "format_version": True}, "other entries"),
        (lambda document: {**document, "format_version": "1"}, "other entries"),
        (lambda document: {**document, "more": 1}, "other entries"),
        (lambda document: {**document, "files": {}}, "it lists none"),
        (lambda document: {**document, "files": [1]}, ""),
        (with_files(lambda files: files.pop("config.json")), "it lists 'model.safetensors'"),
        (with_files(lambda files: files.update({"../x": files["config.json"]})), "it lists 'config.json', 'model"),
        (with_files(lambda files: files.update({"/etc/passwd": files.pop("config.json")})), "it lists"),
        (with_files(lambda files: files.update({"y" * 9000: files["config.json"]})), "it lists"),
        (with_files(lambda files: files["config.json"].update(sha256="0" * 63)), "not 64 hexadecimal digits"),
        (with_files(lambda files: files["config.json"].update(sha256=None)), "not 64 hexadecimal digits"),
        (with_files(lambda files: files["config.json"].update(size=-1)), "size is not a whole number"),
        (with_files(lambda files: files["config.json"].update(size=True)), "size is not a whole number"),
        (with_files(lambda files: files["config.json"].update(size=float("nan"))), "size is not a whole number"),
        (with_files(lambda files: files["config.json"].pop("size")), ""),
    ],
)
def test_altered_manifests(copied, change, message):
    document = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(change(document)))
    with pytest.raises(ValueError, match=f"^manifest.json in '.*' is damaged: .*{message}") as caught:
        STImage.from_pretrained(copied)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [b"", b"[" * 60_000, b'{"a": 1, "a": 1}', b"\xff\xfe{}", b'"\\ud800"', b"9" * 5000, b" " * 70_000 + b"{}"],
    ids=lambda text: ascii(text[:10]),
)
def test_hostile_manifests(copied, text):
    (copied / "manifest.json").write_bytes(text)
    with pytest.raises(ValueError, match="^manifest.json in '.*' is damaged") as caught:
        STImage.from_pretrained(copied)
    assert len(str(caught.value)) < 1000


def test_aligner(aligner, stained, tmp_path):
    aligner.save_pretrained(tmp_path / "model", tags=["he"])
    text = (tmp_path / "model" / "README.md").read_text()
    assert "| image encoder | `tiny` |" in text
    assert 'revision="HASH OF THE COMMIT", image_encoder=...' in text
    assert f"| model id | `{aligner.model_id}` |" in text
    loaded = STAlign.from_pretrained(tmp_path / "model", image_encoder=tiny_encoder())
    expected = aligner.get_latent_representation(stained)
    np.testing.assert_array_equal(loaded.get_latent_representation(stained), expected)
    with pytest.raises(ValueError, match="of kind 'STAlign', not 'STImage'"):
        STImage.from_pretrained(tmp_path / "model")


def test_an_aligner_with_a_gene_encoder(stained, tmp_path):
    encoder = STImage(stained, window=6, n_pool_genes=40, n_genes=20)
    model = STAlign(stained, image_encoder=None, n_pool_genes=40, gene_encoder=encoder)
    model.save_pretrained(tmp_path / "model")
    assert STAlign.from_pretrained(tmp_path / "model").model_id == model.model_id
    config = tmp_path / "model" / "gene_encoder" / "config.json"
    config.write_text(config.read_text().replace("1000.0", "2000.0"))
    with pytest.raises(ValueError, match="^gene_encoder/config.json in '.*' is truncated or altered"):
        STAlign.from_pretrained(tmp_path / "model")
    seal(tmp_path / "model")
    with pytest.raises(ValueError, match="gene_encoder' is damaged: .*its checksum does not match"):
        STAlign.from_pretrained(tmp_path / "model")


FOLDER_ONLY = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError("a connection was asked for")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.modules["huggingface_hub"] = None
from stimage.models import STImage
print(STImage.from_pretrained(sys.argv[1]).model_id)
try:
    STImage.from_pretrained("owner/model", revision="0" * 40)
except ImportError as error:
    print(error)
"""


def test_a_folder_needs_neither_network_nor_library(trained, folder):
    done = subprocess.run([sys.executable, "-c", FOLDER_ONLY, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model_id, message = done.stdout.splitlines()
    assert model_id == trained.model_id
    assert "pip install 'stimage[hub]'" in message
