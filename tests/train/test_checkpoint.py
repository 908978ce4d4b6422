import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from stimage.train import load_checkpoint, save_checkpoint

WEIGHTS = {
    "layer.weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
}
CONFIG = {"sizes": {"dim": 3}, "genes": ["a", "β"], "history": [0.1, 1e-300], "none": None}


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "model", kind="STImage", weights=WEIGHTS, config=CONFIG)
    return tmp_path / "model"


def assert_whole(checkpoint):
    weights, config = load_checkpoint(checkpoint, kind="STImage")
    assert set(weights) == set(WEIGHTS)
    for name, tensor in weights.items():
        assert tensor.dtype == WEIGHTS[name].dtype
        assert torch.equal(tensor, WEIGHTS[name])
    assert {key: config[key] for key in CONFIG} == CONFIG


def rewrite(checkpoint, **changes):
    document = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**document, **changes}))


def test_round_trip(checkpoint):
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors"]
    assert_whole(checkpoint)


def test_views_and_gradients_are_written(tmp_path):
    base = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    save_checkpoint(tmp_path, kind="STImage", weights={"a": base.T, "b": base[:, ::2]}, config={})
    weights, _ = load_checkpoint(tmp_path, kind="STImage")
    assert torch.equal(weights["a"], base.T.detach())
    assert torch.equal(weights["b"], base[:, ::2].detach())


def test_overwriting(checkpoint):
    save_checkpoint(checkpoint, kind="STImage", weights={"other": torch.ones(2)}, config={})
    weights, config = load_checkpoint(checkpoint, kind="STImage")
    assert list(weights) == ["other"]
    assert "genes" not in config


def test_nothing_is_pickled(checkpoint):
    for path in checkpoint.iterdir():
        content = path.read_bytes()
        assert not content.startswith((b"\x80", b"PK"))


def test_other_kind(checkpoint):
    with pytest.raises(ValueError, match="of kind 'STImage', not 'STAlign': load it with that class"):
        load_checkpoint(checkpoint, kind="STAlign")


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_other_version(checkpoint, version):
    rewrite(checkpoint, format_version=version)
    with pytest.raises(ValueError, match=f"format version {version!r}, this version of stimage reads 1: update"):
        load_checkpoint(checkpoint, kind="STImage")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No checkpoint in .*it has no {name}"):
        load_checkpoint(checkpoint, kind="STImage")


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        load_checkpoint(tmp_path / "nowhere", kind="STImage")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated(checkpoint, name, share):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated|damaged"):
        load_checkpoint(checkpoint, kind="STImage")


def test_every_flipped_byte_of_the_weights_is_noticed(checkpoint):
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="truncated or altered"):
            load_checkpoint(checkpoint, kind="STImage")


def test_weights_of_another_model(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "other", kind="STImage", weights={"a": torch.zeros(3)}, config={})
    shutil.copy(tmp_path / "other" / "model.safetensors", checkpoint)
    with pytest.raises(ValueError, match="truncated or altered"):
        load_checkpoint(checkpoint, kind="STImage")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"STImage"',
        '{"kind": ["STImage"]}',
        '{"kind": "STImage"}',
        '{"kind": "STImage", "format_version": 1}',
        '{"kind": "STImage", "format_version": 1, "weights_sha256": {}}',
        "[" * 100_000,
        '{"kind": ' * 50_000,
        '{"kind": "STImage", "format_version": ' + "9" * 10_000 + "}",
        '{"kind": "STImage", "format_version": 1e999}',
        '{"kind": "' + "x" * 100_000 + '"}',
        "\ud800",
        "\ufeff{}",
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_hostile_config(checkpoint, text):
    (checkpoint / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="Checkpoint .* is (damaged|of kind|truncated)|format version") as caught:
        load_checkpoint(checkpoint, kind="STImage")
    assert len(str(caught.value)) < 1000


def test_weights_that_are_no_safetensors(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 64)
    rewrite(checkpoint, weights_sha256=hashlib.sha256(b"\xff" * 64).hexdigest())
    with pytest.raises(ValueError, match="damaged: model.safetensors cannot be read"):
        load_checkpoint(checkpoint, kind="STImage")


def test_a_full_disk_leaves_the_old_checkpoint(checkpoint):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises((OSError, SafetensorError)):
            save_checkpoint(checkpoint, kind="STImage", weights={"large": torch.ones(1_000_000)}, config={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert_whole(checkpoint)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors"]


def test_a_config_that_cannot_be_written_leaves_the_old_checkpoint(checkpoint):
    with pytest.raises(TypeError):
        save_checkpoint(checkpoint, kind="STImage", weights={"a": torch.ones(3)}, config={"set": {1, 2}})
    assert_whole(checkpoint)


KILLED = """
import resource, signal, sys
import torch
from stimage.train import save_checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_checkpoint(sys.argv[1], kind="STImage", weights={"large": torch.ones(1_000_000)}, config={})
"""


def test_a_killed_write_leaves_the_old_checkpoint(checkpoint):
    # The process dies while it writes the weights, as at a power cut: nothing is cleaned up.
    child = subprocess.run([sys.executable, "-c", KILLED, checkpoint], timeout=120, check=False)
    assert child.returncode == -signal.SIGXFSZ
    assert_whole(checkpoint)
    save_checkpoint(checkpoint, kind="STImage", weights=WEIGHTS, config=CONFIG)
    assert_whole(checkpoint)
