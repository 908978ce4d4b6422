"""Corpora on disk that are damaged, or altered with checksums made to match: each ends in an error, and none in a crash.

150 seeded cases; more with ``STIMAGE_FUZZ=5000 pytest tests/data/corpus/test_fuzz.py``.
"""

import hashlib
import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from slides import random_slide

from stimage.data import Corpus, WindowDataset, WindowSpec

N_CASES = int(os.environ.get("STIMAGE_FUZZ", 150))
BATCH = 25
GENES = [f"g{i}" for i in range(6)]
TYPES = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "BOOL": "?"}
HOSTILE = [
    None, True, 0, -1, 1.5, 10**30, -(10**30), 2**63, float("nan"), float("inf"), "", "x", "../../x", "/etc/passwd", "a\0b",
    "\ud800", "é" * 3000, [], {}, [[]], [None], {"a": 1}, [10**18], [-1], ["1"], "[" * 400, {"": {"": {"": []}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Files of a corpus and what is in its windows."""
    folder = tmp_path_factory.mktemp("original") / "corpus"
    slides = [random_slide(5, 6, seed=i, name=f"s{i}", unmeasured=i) for i in range(3)]
    slides[2] = slides[2].restrict(np.ones((5, 6), bool), centre=np.full(6, 0.5, np.float32))
    Corpus(slides, GENES).write(folder, target_sum=1e4)
    return folder, windows(Corpus.open(folder))


def windows(corpus):
    """Everything in some windows of each slide, and other reading that training and embedding do."""
    spec = WindowSpec(window=3, n_genes=4)
    dataset = WindowDataset(corpus.slides, spec, seed=0)
    found = [getattr(dataset[i], name) for i in range(12) for name in ("expression", "genes", "observed", "positions")]
    for slide in corpus:
        found += [slide.gene_mean, slide.site_index, slide.active, slide.expression[:].toarray()]
    return [*found, corpus.observation_order]


# Damage that keeps the checksums: an accident


def some_file(folder, rng):
    files = [folder / "corpus.json", *sorted((folder / "slides").iterdir())]
    return files[rng.integers(len(files))]


def truncate(folder, rng):
    path = some_file(folder, rng)
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def flip_bits(folder, rng):
    path = some_file(folder, rng)
    content = bytearray(path.read_bytes())
    for place in rng.choice(len(content), rng.integers(1, 9), replace=False):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def overwrite(folder, rng):
    path = some_file(folder, rng)
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content)))
    stop = int(rng.integers(start, len(content))) + 1
    before = bytes(content)
    content[start:stop] = rng.bytes(stop - start) if rng.random() < 0.5 else bytes(stop - start)
    path.write_bytes(content if content != before else content[:-1])


def lengthen(folder, rng):
    with some_file(folder, rng).open("ab") as file:
        file.write(b"{}" + rng.bytes(int(rng.integers(100))))


def remove(folder, rng):
    some_file(folder, rng).unlink()


def replace_by_another_kind(folder, rng):
    path = some_file(folder, rng)
    path.unlink()
    os.mkfifo(path) if rng.random() < 0.5 and path.name != "corpus.json" else path.mkdir()


def exchange_slides(folder, rng):
    files = sorted((folder / "slides").iterdir())
    one, other = rng.choice(len(files), 2, replace=False)
    first, second = files[one].read_bytes(), files[other].read_bytes()
    files[one].write_bytes(second)
    files[other].write_bytes(first)


# Damage with checksums that fit: bad intentions, or a program that writes corpora and has a fault


def signed(folder, document):
    document.pop("checksum", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "corpus.json").write_text(json.dumps(document))


def places(value, path=()):
    """Paths to every part of a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def put_anything(document, rng, chosen):
    """Replace, remove or add one of the chosen parts of a JSON document."""
    before = json.dumps(document)
    while json.dumps(document) == before:
        *parents, last = chosen[rng.integers(len(chosen))]
        inside = document
        for key in parents:
            inside = inside[key]
        value = HOSTILE[rng.integers(len(HOSTILE))]
        kind = rng.random()
        if kind < 0.15:
            del inside[last]
        elif kind < 0.25 and isinstance(inside, dict):
            inside[f"{last}2"] = value
        elif kind < 0.35 and isinstance(inside[last], list | str):
            inside[last] = inside[last] * 2
        else:
            inside[last] = value


def index_of_another(folder, rng):
    document = json.loads((folder / "corpus.json").read_text())
    # Notes and origins are texts that may be anything, and without one of its slides a corpus is whole.
    chosen = [path for path in places(document) if path[0] not in ("notes", "checksum") and path[-1] != "origin"]
    put_anything(document, rng, [path for path in chosen if path[0] != "slides" or len(path) != 2])
    signed(folder, document)


def index_of_another_version(folder, rng):
    version = [2, 0, "1", None, 1.5][rng.integers(5)]
    signed(folder, json.loads((folder / "corpus.json").read_text()) | {"version": version})


def bytes_for_an_index(folder, rng):
    text = (folder / "corpus.json").read_bytes()
    choices = [
        b"[" * 100_000,
        b"{" * 5000,
        b"9" * 5000,
        text.replace(b"g1", b"\xff\xfe"),
        text.decode().encode("utf-16"),
        b"\0" * 50,
        text + text,
        b"\xef\xbb\xbf{}",
        b'{"format": "stimage corpus", "version": 1, "genes": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    ]
    (folder / "corpus.json").write_bytes(choices[rng.integers(len(choices))])


def change_slide(folder, rng, change):
    """Change header and arrays of a slide, and whatever says how they were."""
    document = json.loads((folder / "corpus.json").read_text())
    entry = document["slides"][rng.integers(3)]
    text = (folder / entry["file"]).read_bytes()
    length = int.from_bytes(text[:8], "little")
    header, body = json.loads(text[8 : 8 + length]), bytearray(text[8 + length :])
    body = change(header, body, entry) or body
    new = json.dumps(header, separators=(",", ":")).encode()
    new += b" " * (-len(new) % 8)
    new = len(new).to_bytes(8, "little") + new + body
    (folder / entry["file"]).write_bytes(new)
    entry |= {"bytes": len(new), "sha256": hashlib.sha256(new).hexdigest()}
    signed(folder, document)


def header_of_another(folder, rng):
    # Donor and sketch are texts that may be anything.
    def change(header, _body, _entry):
        put_anything(header, rng, [path for path in places(header) if path[-1] not in ("donor", "spot_sketch")])

    change_slide(folder, rng, change)


def parity_of_another(folder, rng):
    def change(header, _body, _entry):
        header["__metadata__"]["parity"] = ["-1", "2", "", "0.0", "a"][rng.integers(5)]

    change_slide(folder, rng, change)


BAD_NUMBERS = {
    "data": [np.nan, np.inf, -np.inf, -1.0, 3e38],
    "indices": [6, -1, 2**31 - 1, -(2**31)],
    "indptr": [-1, 10**12, 2**62, -(2**63)],
    "observation_index": [-1, -(2**62)],
    "site_of_observation": [-1, 10**6, 2**62],
    "library_size": [np.nan, np.inf, -1.0],
    "mean": [np.nan, np.inf],
    "centre": [np.nan, np.inf],
    "raster": [10**6, -2, -(2**31)],
}


def numbers_of_another(folder, rng):
    """A number that an array cannot have."""

    def change(header, body, _entry):
        names = [name for name in BAD_NUMBERS if name in header]
        name = names[rng.integers(len(names))]
        start, end = header[name]["data_offsets"]
        values = np.frombuffer(memoryview(body)[start:end], TYPES[header[name]["dtype"]])
        values[rng.integers(len(values))] = BAD_NUMBERS[name][rng.integers(len(BAD_NUMBERS[name]))]

    change_slide(folder, rng, change)


def contradiction(folder, rng):
    """Numbers that an array can have, and that do not fit the others."""

    def change(header, body, _entry):
        def array(name):
            start, end = header[name]["data_offsets"]
            return np.frombuffer(memoryview(body)[start:end], TYPES[header[name]["dtype"]])

        indptr, indices, raster = array("indptr"), array("indices"), array("raster")
        kind = rng.integers(5)
        if kind == 0:  # a gene twice in a site
            row = np.flatnonzero(np.diff(indptr) > 1)[0]
            indices[indptr[row] + 1] = indices[indptr[row]]
        elif kind == 1:  # a site twice in the raster
            first, second = np.flatnonzero(raster >= 0)[:2]
            raster[second] = raster[first]
        elif kind == 2:  # rows in no order
            indptr[[1, 2]] = indptr[2] + 1, indptr[1]
        elif kind == 3:  # an observation twice
            array("observation_index")[:2] = 0
        elif "mean" in header:
            array("mean")[:] += 0.1
        else:
            array("measured")[:] = False

    change_slide(folder, rng, change)


DAMAGES = [truncate, flip_bits, overwrite, lengthen, remove, replace_by_another_kind, exchange_slides]
ALTERATIONS = [
    index_of_another,
    index_of_another_version,
    bytes_for_an_index,
    header_of_another,
    parity_of_another,
    numbers_of_another,
    contradiction,
]


def caught(call, folder):
    """Message of the error of a call, if it is one that says what is wrong with the corpus."""
    try:
        call(folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert str(folder) in text or "slides/" in text, f"does not say what is damaged: {text!r}"
        return text
    return ""


def same(one, other):
    return len(one) == len(other) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)
    )


def try_case(folder, change, seed, expected):
    """When a change is noticed: at opening, by `verify` or at reading."""
    change(folder, np.random.default_rng(seed))
    at_opening = caught(Corpus.open, folder)
    by_verify = caught(Corpus.verify, folder)
    if at_opening:
        assert by_verify, "`verify` takes what `open` refuses"
        return "open"
    found = []
    at_reading = caught(lambda folder: found.extend(windows(Corpus.open(folder))), folder)
    assert by_verify, "nothing is noticed" if at_reading or not same(found, expected) else "nothing changed"
    return "verify and reading" if at_reading else "verify"


@pytest.mark.parametrize("batch", range(-(-N_CASES // BATCH)))
@pytest.mark.filterwarnings("error")
def test_damaged_corpora(original, tmp_path, batch):
    folder, expected = original
    outcomes = Counter()
    for seed in range(batch * BATCH, min((batch + 1) * BATCH, N_CASES)):
        kinds = DAMAGES + ALTERATIONS
        change = kinds[seed % len(kinds)]
        copy = tmp_path / "corpus"
        shutil.copytree(folder, copy)
        try:
            outcomes[change.__name__, try_case(copy, change, seed, expected)] += 1
        except Exception as error:
            raise AssertionError(f"{change.__name__}, seed {seed}: {type(error).__name__}: {error}") from error
        shutil.rmtree(copy)
    for (name, outcome), number in sorted(outcomes.items()):
        print(f"fuzz {name:28} {outcome:20} {number}")


def test_what_is_only_noticed_by_verify_is_read(original, tmp_path):
    """The other way round: files that are whole are read, and what was read is right."""
    folder, expected = original
    shutil.copytree(folder, tmp_path / "corpus")
    Corpus.verify(tmp_path / "corpus")
    assert same(windows(Corpus.open(tmp_path / "corpus")), expected)
