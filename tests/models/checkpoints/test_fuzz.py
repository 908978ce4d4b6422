"""Damaged and hostile checkpoints: one clear error, or the same model; never anything else.

``STIMAGE_FUZZ=5000 pytest -s tests/models/checkpoints/test_fuzz.py`` tries that many cases; ``-s`` shows what came out.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import edit_config, edit_weights, seal, sha256, write_config
from stained import tiny_encoder

from stimage import datasets, pp
from stimage.models import STAlign, STImage

N_CASES = int(os.environ.get("STIMAGE_FUZZ", "150"))
CLEAR = (ValueError, KeyError, TypeError, FileNotFoundError)
LONGEST_MESSAGE = 1500
LONGEST_SECONDS = 60
MOST_MEMORY = 1 << 30
FILES = ("config.json", "model.safetensors", "manifest.json", "README.md")
loading, unpickled = [False], []


def listen(event: str, arguments: Any) -> None:
    if event == "pickle.find_class" and loading[0]:
        unpickled.append(arguments)


sys.addaudithook(listen)


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


NESTED: Any = []
for _ in range(400):
    NESTED = [NESTED]
HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    2**31,
    2**63,
    10**18,
    10**300,
    0.5,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "0",
    "patch",
    "spot",
    "../../../etc/passwd",
    "\ud800",
    "x" * 100_000,
    "A\0B",
    [],
    [1],
    ["a", "a"],
    [float("nan")],
    [None] * 1000,
    {},
    {"a": {"b": 1}},
    NESTED,
]
TEXTS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"kind": ' + b"9" * 10_000 + b"}",
    b"\xff\xfe\x00{",
    b'{"kind": "\xff"}',
    "\ufeff{}".encode(),
    b'{"kind": NaN}',
    b'{"kind": "' + b"x" * 1_000_000 + b'"}',
]
HEADERS = [
    b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}',
    b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"a":1}',
    b"{",
    b"\xff" * 20,
    b"[" * 50_000,
]


class Case:
    """One altered copy of a checkpoint.

    Parameters
    ----------
    folder
        The copy, as ``save_pretrained`` wrote it.
    other
        A checkpoint of the other kind.
    rng
        Decides everything.
    """

    def __init__(self, folder: Path, other: Path, rng: np.random.Generator) -> None:
        self.folder, self.other, self.rng = folder, other, rng

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def file(self) -> Path:
        return self.folder / self.pick(FILES)

    # What may happen to files on their way: noticed, or of no consequence.

    def cut(self) -> None:
        path = self.file()
        content = path.read_bytes()
        path.write_bytes(content[: int(self.rng.integers(len(content)))])

    def flip(self) -> None:
        path = self.file()
        content = bytearray(path.read_bytes())
        for _ in range(self.pick([1, 1, 1, 2, 8])):
            content[int(self.rng.integers(len(content)))] ^= 1 << int(self.rng.integers(8))
        path.write_bytes(content)

    def splice(self) -> None:
        path = self.file()
        content = path.read_bytes()
        start, stop = sorted(int(place) for place in self.rng.integers(len(content) + 1, size=2))
        new = self.pick([b"", self.rng.bytes(self.pick([1, 8, 300])), content[start:stop] * 2, b"\0" * (stop - start)])
        path.write_bytes(content[:start] + new + content[stop:])

    def digits(self) -> None:
        """Another number or letter, so that it is still JSON."""
        path = self.folder / self.pick(["config.json", "manifest.json"])
        content = bytearray(path.read_bytes())
        places = [place for place, byte in enumerate(content) if chr(byte).isalnum()]
        content[self.pick(places)] = self.pick(b"0123456789abcdef")
        path.write_bytes(content)

    def take_away(self) -> None:
        self.file().unlink()

    def put_another_thing(self) -> None:
        path = self.file()
        path.unlink()
        self.pick(
            [
                path.mkdir,
                lambda: path.symlink_to("nowhere"),
                lambda: path.symlink_to(path.name),
                lambda: path.symlink_to("/dev/zero"),
                lambda: path.symlink_to("/dev/null"),
                lambda: path.symlink_to("/etc/passwd"),
                lambda: path.symlink_to(self.folder),
                lambda: os.mkfifo(path),
            ]
        )()

    def swap(self) -> None:
        path = self.file()
        shutil.copy(self.other / path.name, path)

    # What someone may make who knows the format: noticed.

    def hostile_text(self) -> None:
        path = self.folder / self.pick(["config.json", "manifest.json"])
        path.write_bytes(self.pick(TEXTS))
        if path.name == "config.json":
            seal(self.folder)

    def twice(self) -> None:
        """An entry that is there twice, first and last."""
        text = (self.folder / "config.json").read_text()
        name = self.pick(["kind", "format_version", "genes", "manifest", "weights_sha256"])
        (self.folder / "config.json").write_text(
            text.rstrip()[:-1] + f', "{name}": {json.dumps(self.pick([0, None]))}}}'
        )
        seal(self.folder)

    def another_version(self) -> None:
        changes = {"format_version": self.pick([0, 2, "1", None, 1.5, 2**80, [1]])}
        changes = self.pick([changes, {"kind": self.pick(["", "Other", None, ["STImage"], "x" * 10**6])}])
        edit_config(self.folder, lambda document: document.update(changes))

    def hostile_header(self) -> None:
        header = self.pick(HEADERS)
        length = self.pick([len(header), len(header), len(header), 2**40, 2**64 - 1, 0])
        self._weights(length.to_bytes(8, "little") + header + self.rng.bytes(self.pick([0, 4, 4, 64])))

    def pickled(self) -> None:
        self._weights(pickle.dumps(self.pick([Bomb(), {"module.norm.weight": torch.ones(2)}])))

    def cut_weights(self) -> None:
        content = (self.folder / "model.safetensors").read_bytes()
        self._weights(content[: int(self.rng.integers(len(content)))])

    def tensors(self) -> None:
        """Tensors of other names, shapes and types, in a valid file."""

        def change(weights: dict[str, torch.Tensor]) -> None:
            name = self.pick(sorted(weights))
            tensor = weights[name]
            changes = [
                lambda: weights.pop(name),
                lambda: weights.update({f"{name}.more": tensor.clone()}),
                lambda: weights.update({"module.other": torch.ones(3)}),
                lambda: weights.update({self.pick(["", "other", "x" * 100_000, "../x"]): torch.ones(3)}),
                lambda: weights.update({name: tensor[None].clone()}),
                lambda: weights.update({name: torch.cat([tensor.reshape(-1), torch.zeros(1)])}),
                lambda: weights.update({name: torch.zeros(())} if tensor.ndim else {name: torch.zeros(2)}),
                lambda: weights.update({name: torch.empty(0, 10**12)}),
                lambda: weights.update({name: tensor.to(self.pick([torch.float64, torch.int64, torch.bool]))}),
                lambda: weights.update({name: tensor.to(self.pick([torch.bfloat16, torch.complex64]))}),
                lambda: weights.update({name: torch.full_like(tensor, self.pick([float("nan"), float("inf")]))}),
            ]
            self.pick(changes)()

        edit_weights(self.folder, change)

    def _weights(self, content: bytes) -> None:
        path = self.folder / "model.safetensors"
        path.write_bytes(content)
        edit_config(self.folder, lambda document: document.update(weights_sha256=sha256(path)))

    # Values of a config that may be those of another model, or of none.

    def hostile_value(self) -> None:
        document = json.loads((self.folder / "config.json").read_text())
        holder, key = document, self.pick(sorted(document))
        while isinstance(holder[key], dict | list) and holder[key] and self.rng.random() < 0.8:
            holder = holder[key]
            key = self.pick(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        match self.pick(["replace", "replace", "replace", "remove", "add"]):
            case "replace":
                holder[key] = self.pick(HOSTILE)
            case "remove":
                holder.pop(key)
            case "add" if isinstance(holder, dict):
                holder[self.pick(["more", "", "x" * 100_000, "a/b"])] = self.pick(HOSTILE)
            case _:
                holder.insert(key, self.pick(HOSTILE))
        write_config(self.folder, document)

    def hostile_manifest(self) -> None:
        document = json.loads((self.folder / "manifest.json").read_text())
        entry = self.pick([document, document["files"], document["files"]["config.json"]])
        entry[self.pick([*entry, "../../x"])] = self.pick(HOSTILE)
        (self.folder / "manifest.json").write_text(json.dumps(document))


BY_ACCIDENT = (Case.cut, Case.flip, Case.splice, Case.digits, Case.take_away, Case.put_another_thing, Case.swap)
ON_PURPOSE = (
    Case.hostile_text,
    Case.twice,
    Case.another_version,
    Case.hostile_header,
    Case.pickled,
    Case.cut_weights,
    Case.tensors,
)
OTHER_MODELS = (Case.hostile_value, Case.hostile_value, Case.hostile_value, Case.hostile_manifest)


@pytest.fixture(scope="module")
def slide():
    adata = datasets.simulate_tissue(n_rows=8, n_cols=8, n_genes=120, seed=0)
    pp.compact_grid(adata)
    pp.build_niches(adata)
    return adata


@pytest.fixture(scope="module")
def folders(trained, aligner, tmp_path_factory):
    root = tmp_path_factory.mktemp("shared")
    trained.save_pretrained(root / "STImage")
    aligner.save_pretrained(root / "STAlign")
    return root


def loaders(kind: str) -> list[Callable[[Path], Any]]:
    if kind == "STImage":
        return [STImage.load, STImage.from_pretrained]
    encoder = tiny_encoder()
    return [
        lambda folder: STAlign.load(folder, image_encoder=encoder),
        lambda folder: STAlign.from_pretrained(folder, image_encoder=encoder),
    ]


def vectors(model: STImage | STAlign, slide) -> np.ndarray:
    if isinstance(model, STImage):
        return model.get_latent_representation(slide, tile_size=8)
    return model.get_latent_representation(slide, modality="gene")


def says(model: STImage | STAlign) -> tuple[Any, ...]:
    """All that a model knows."""
    optional = [repr(getattr(model, name, None)) for name in ("spec", "unit", "autoencoder", "config", "patches")]
    optional += [repr(getattr(model, name, None)) for name in ("target_sum", "niches", "niche_key", "spot_context")]
    history = {name: frame.iloc[:, 0].tolist() for name, frame in model.history.items()}
    return (
        model.model_id,
        *optional,
        repr((model.optimizer, model.seed, model.is_trained, model.n_tokens_seen, history)),
        model.genes.tolist(),
        model.vocabulary.ensembl_ids,
        model.manifest_record(),
    )


@contextmanager
def within_limits() -> Iterator[None]:
    """Memory and time that no checkpoint of this size needs."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(LONGEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def out_of_time(*_: Any) -> None:
    raise AssertionError(f"took more than {LONGEST_SECONDS} s")


def check_error(error: Exception, folder: Path) -> None:
    message = str(error)
    assert str(folder) in message, f"the message does not name the checkpoint: {message[:300]}"
    assert len(message) < LONGEST_MESSAGE, f"a message of {len(message)} letters: {message[:300]}"
    message.encode()
    cause: BaseException | None = error
    while cause is not None:
        assert not isinstance(cause, MemoryError) and "allocate" not in str(cause), f"too much memory: {cause!s:.300}"
        cause = cause.__cause__


def outcome(load: Callable[[Path], Any], folder: Path, expected: tuple | None, slide) -> str:
    """What came of loading; raises ``AssertionError`` for what must not be, and lets every other exception through."""
    with within_limits():
        loading[0] = True
        try:
            model = load(folder)
        except CLEAR as error:
            check_error(error, folder)
            return type(error).__name__
        finally:
            loading[0] = False
        if expected is None:  # sealed with other values: it may be another model, if it is one
            assert isinstance(model.model_id, str)
            json.dumps(model.manifest_record())
            repr(model)
            try:
                assert np.isfinite(vectors(model, slide)).all()
            except CLEAR as error:
                assert len(str(error)) < LONGEST_MESSAGE
                return "another model, refused later"
            return "another model"
        assert says(model) == expected[0], "the model is another one"
        np.testing.assert_array_equal(vectors(model, slide), expected[1])
        return "the same model"


@pytest.mark.parametrize("kind", ["STImage", "STAlign"])
def test_altered_checkpoints(kind, folders, slide, tmp_path):
    first, *_ = loads = loaders(kind)
    whole = first(folders / kind)
    expected = says(whole), vectors(whole, slide)
    other = folders / ("STAlign" if kind == "STImage" else "STImage")
    groups = (BY_ACCIDENT, ON_PURPOSE, OTHER_MODELS)
    found: Counter[str] = Counter()
    failures, slowest = [], 0.0
    for seed in range(N_CASES // 2):
        rng = np.random.default_rng([seed, kind == "STAlign"])
        group = groups[seed % 3]
        alter = group[int(rng.integers(len(group)))]
        folder = tmp_path / "case"
        shutil.copytree(folders / kind, folder)
        start = time.process_time()
        try:
            alter(Case(folder, other, rng))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                came = outcome(loads[seed // 3 % 2], folder, None if group is OTHER_MODELS else expected, slide)
                # What was made on purpose is told from the true model by its manifest alone where it is not read.
                ignored = alter is Case.hostile_text and came == "the same model"
                assert group is not ON_PURPOSE or ignored or not came.endswith("model"), f"{came} was loaded"
            found[f"{alter.__name__}: {came}"] += 1
        except Exception as error:  # noqa: BLE001 (all are reported together)
            failures.append(f"{kind} {seed} {alter.__name__}: {type(error).__name__}: {error!s:.400}")
        slowest = max(slowest, time.process_time() - start)
        shutil.rmtree(folder)
    print(f"\n{kind}: {sum(found.values())} cases, the slowest {slowest:.2f} s")
    print("\n".join(f"  {number:6d}  {name}" for name, number in sorted(found.items())))
    assert not failures, f"{len(failures)} of {N_CASES // 2}:\n" + "\n".join(failures[:20])
    assert not unpickled
