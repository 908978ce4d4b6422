import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import sparse
from slides import random_slide

from stimage.data import Corpus, CorpusWriter, StoredMatrix, Vocabulary

GENES = [f"g{i}" for i in range(6)]


def slides_of(n=3, **options):
    return [random_slide(5, 6, seed=i, name=f"s{i}", **options) for i in range(n)]


def assert_same_slides(found, expected):
    """Everything of the slides is equal, bit by bit."""
    assert len(found) == len(expected)
    for new, old in zip(found, expected, strict=True):
        assert isinstance(new.expression, StoredMatrix)
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(new.expression[:], part), getattr(old.expression, part))
        for name in {field.name for field in fields(old)} - {"expression", "known_mean"}:
            one, two = getattr(new, name), getattr(old, name)
            np.testing.assert_array_equal(one, two, err_msg=name)
            assert type(one) is type(two)
            assert getattr(one, "dtype", None) == getattr(two, "dtype", None)
        np.testing.assert_array_equal(new.gene_mean, old.gene_mean)
        np.testing.assert_array_equal(new.active, old.active)


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def tamper(folder, change, *, sign=True):
    """Change the index, and give it a checksum that fits, as someone with bad intentions would."""
    document = json.loads((folder / "corpus.json").read_text())
    document = change(document) or document
    if sign:
        document.pop("checksum")
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        document["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "corpus.json").write_text(json.dumps(document))


def tamper_slide(folder, change):
    """Change header and arrays of the first slide, and whatever says how they were."""
    entry = json.loads((folder / "corpus.json").read_text())["slides"][0]
    text = (folder / entry["file"]).read_bytes()
    length = int.from_bytes(text[:8], "little")
    header, body = json.loads(text[8 : 8 + length]), bytearray(text[8 + length :])
    body = change(header, body) or body
    new = json.dumps(header, separators=(",", ":")).encode()
    new += b" " * (-len(new) % 8)
    new = len(new).to_bytes(8, "little") + new + body
    (folder / entry["file"]).write_bytes(new)

    def sizes(document):
        document["slides"][0] |= {"bytes": len(new), "sha256": hashlib.sha256(new).hexdigest()}

    tamper(folder, sizes)


def array(header, body, name):
    start, end = header[name]["data_offsets"]
    types = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "BOOL": "?"}
    return np.frombuffer(memoryview(body)[start:end], types[header[name]["dtype"]])


@pytest.fixture
def folder(tmp_path):
    Corpus(slides_of(), GENES).write(tmp_path / "corpus", target_sum=1e4)
    return tmp_path / "corpus"


# Round trips


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.builds(
            random_slide,
            st.integers(1, 6),
            st.integers(1, 6),
            n_genes=st.just(6),
            layout=st.sampled_from(["hex", "square", "rank", "bins"]),
            parity=st.integers(0, 1),
            holes=st.sampled_from([0.0, 0.5]),
            empty=st.sampled_from([0.0, 1.0]),
            unmeasured=st.integers(0, 6),
            seed=st.integers(0, 2**31),
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.text(max_size=9), min_size=4, max_size=4, unique=True),
    st.text(max_size=9),
)
def test_slides_come_back_as_they_were(tmp_path_factory, slides, names, donor):
    slides = [replace(slide, name=name, donor=donor) for slide, name in zip(slides, names, strict=False)]
    path = tmp_path_factory.mktemp("corpus") / "corpus"
    corpus = Corpus(slides, Vocabulary(GENES, {"g2": "ENSG00000197971"}), source=[0] * len(slides))
    corpus.write(path, target_sum=1e4)
    Corpus.verify(path)
    opened = Corpus.open(path)
    assert_same_slides(opened, slides)
    assert opened.source == corpus.source
    assert opened.genes.tolist() == GENES
    assert opened.vocabulary.ensembl_ids == {"g2": "ENSG00000197971"}
    assert opened.n_sites == corpus.n_sites
    # A corpus on disk is written like any other.
    opened.write(path.parent / "again", target_sum=1e4)
    assert contents(path.parent / "again") == contents(path)


def test_the_scale(tmp_path):
    corpus = Corpus(slides_of(), GENES)
    corpus.write(tmp_path / "corpus")
    opened = Corpus.open(tmp_path / "corpus")
    assert_same_slides(opened, corpus.to_target_sum(1e3))
    back = opened.to_target_sum(1e4)
    for new, old in zip(back, corpus, strict=True):
        np.testing.assert_allclose(new.expression[:].toarray(), old.expression.toarray(), rtol=1e-4)
        np.testing.assert_allclose(new.gene_mean, old.gene_mean, rtol=1e-4)
        assert isinstance(new.expression, StoredMatrix)


def test_parts_of_a_slide(tmp_path, monkeypatch):
    monkeypatch.setattr("stimage.data.slides._row_matrix._BLOCK", 17)
    slides = slides_of()
    allowed = np.arange(30).reshape(5, 6) % 7 > 1
    slides[1] = slides[1].restrict(allowed, centre=np.arange(6, dtype=np.float32))
    Corpus(slides, GENES).write(tmp_path / "corpus", target_sum=1e4)
    opened = Corpus.open(tmp_path / "corpus")
    assert_same_slides(opened, slides)
    for new, old in zip(opened, slides, strict=True):
        hidden = np.arange(old.n_sites) % 3 == 0
        np.testing.assert_array_equal(new.restrict(allowed).gene_mean, old.restrict(allowed).gene_mean)
        np.testing.assert_array_equal(new.hide(hidden).active, old.hide(hidden).active)
        if old.centre is None:
            np.testing.assert_array_equal(new.hide(hidden).gene_mean, old.hide(hidden).gene_mean)


def test_files_are_safetensors(folder):
    (first, *_) = sorted((folder / "slides").iterdir())
    tensors = load_file(first)
    slide = slides_of()[0]
    assert {name: tensors[name].dtype.name for name in ("data", "indices", "indptr")} == {
        "data": "float32",
        "indices": "int32",
        "indptr": "int64",
    }
    read = sparse.csr_matrix((tensors["data"], tensors["indices"], tensors["indptr"]), slide.expression.shape)
    assert (read != slide.expression).nnz == 0
    np.testing.assert_array_equal(tensors["raster"], slide.raster)


def test_observations_keep_their_order(tmp_path):
    slides = [replace(slide, observation_index=np.arange(slide.n_sites) * 3 + i) for i, slide in enumerate(slides_of())]
    corpus = Corpus(slides, GENES, source=[0, 0, 1])
    corpus.write(tmp_path / "corpus")
    np.testing.assert_array_equal(Corpus.open(tmp_path / "corpus").observation_order, corpus.observation_order)


# Writing


def test_appending(tmp_path):
    slides = slides_of(4)
    with CorpusWriter(tmp_path / "corpus", GENES, target_sum=1e4, notes={"layer": None}) as writer:
        writer.append(slides[0])
        writer.append(slides[1:3], origin="a.h5ad")
        assert_same_slides(Corpus.open(tmp_path / "corpus"), slides[:3])
        assert (len(writer), writer.names, writer.origins) == (3, {"s0", "s1", "s2"}, {"a.h5ad"})
    with pytest.raises(ValueError, match="This writer is closed"):
        writer.append(slides[3])

    def never():
        raise AssertionError("there are genes already")

    with CorpusWriter(tmp_path / "corpus", never, target_sum=1e4, notes={"layer": None}) as writer:
        assert writer.vocabulary.genes.tolist() == GENES
        writer.append(slides[3])
    opened = Corpus.open(tmp_path / "corpus")
    assert_same_slides(opened, slides)
    assert opened.source == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": GENES[::-1]}, "has other genes"),
        ({"target_sum": 1e3}, "has `target_sum`=10000, 1000 was asked for"),
        ({"notes": {"layer": "raw"}}, "was built with layer=None instead of 'raw'"),
    ],
)
def test_a_corpus_is_continued_in_the_same_way(folder, options, message):
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        CorpusWriter(folder, **{"genes": GENES, "target_sum": 1e4} | options)
    assert contents(folder) == before
    with CorpusWriter(folder, GENES, target_sum=1e4):
        pass


def test_slides_that_do_not_fit(folder):
    before = contents(folder)
    good = random_slide(seed=9, name="new")
    bad = {
        "has a slide 's1' already": replace(good, name="s1"),
        "has 7 genes, the vocabulary has 6": random_slide(n_genes=7, name="new"),
        "`slides` must be Slides, found str": "slide",
        "must be a CSR matrix, found csc_matrix": replace(good, expression=good.expression.tocsc()),
        "has layout 'spiral'": replace(good, layout="spiral"),
        "Slide 'new' cannot be stored: its raster shows sites": replace(good, raster=good.raster + 1),
        "Slide 'new' cannot be stored: its library sizes": replace(good, library_size=good.library_size * np.nan),
        "Slide 'new' cannot be stored: its expression is not log1p": replace(good, expression=good.expression * -1),
        "Slide 'new' cannot be stored: its expression is not log1p of": replace(
            good, expression=good.expression * np.nan
        ),
        "Slide 'new' cannot be stored: its centre is not": replace(good, centre=np.full(6, np.inf, np.float32)),
        "Slide 'new' cannot be stored: its observations have": replace(good, observation_index=-good.observation_index),
        "has a name that cannot be written": replace(good, name="\ud800"),
    }
    with CorpusWriter(folder, GENES, target_sum=1e4) as writer:
        for message, slide in bad.items():
            with pytest.raises((ValueError, TypeError), match=message):
                # What comes before it is not kept either.
                writer.append([replace(good, name="before"), slide])
    assert contents(folder) == before


def test_one_writer_at_a_time(folder):
    with CorpusWriter(folder, GENES, target_sum=1e4):
        with pytest.raises(RuntimeError, match="Another process writes to the corpus"):
            CorpusWriter(folder, GENES, target_sum=1e4)
        assert len(Corpus.open(folder)) == 3
    CorpusWriter(folder, GENES, target_sum=1e4).close()


def test_overwriting(folder):
    corpus = Corpus(slides_of(2), GENES)
    before = contents(folder)
    with pytest.raises(FileExistsError, match="holds a corpus already: pass `overwrite=True`"):
        corpus.write(folder)
    opened = Corpus.open(folder)
    # Slides of the corpus that is replaced are read while the new one is written.
    broken = Corpus([*opened, random_slide(n_genes=6, layout="spiral", name="bad")], GENES)
    with pytest.raises(ValueError, match="spiral"):
        broken.write(folder, overwrite=True)
    assert contents(folder) == before
    opened.write(folder, target_sum=1e3, overwrite=True)
    assert_same_slides(Corpus.open(folder), Corpus(slides_of(), GENES).to_target_sum(1e3))
    with pytest.raises(FileNotFoundError, match="is gone: put it back, or open the corpus again"):
        _ = opened[0].expression[:]
    corpus.write(folder, target_sum=1e4, overwrite=True)
    assert_same_slides(Corpus.open(folder), slides_of(2))
    assert len(contents(folder)) == 3


def test_a_damaged_corpus_can_be_overwritten(folder):
    (folder / "corpus.json").write_text("{")
    Corpus(slides_of(2), GENES).write(folder, target_sum=1e4, overwrite=True)
    assert_same_slides(Corpus.open(folder), slides_of(2))


def test_folders_that_hold_something_else(tmp_path):
    corpus = Corpus(slides_of(), GENES)
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(FileExistsError, match="holds 'thesis.doc' and is no corpus"):
        corpus.write(tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        corpus.write(tmp_path / "thesis.doc")
    assert sorted(os.listdir(tmp_path)) == ["thesis.doc"]
    corpus.write(tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").unlink()
    with pytest.raises(FileExistsError, match="has slides but no corpus.json: restore that file"):
        corpus.write(tmp_path / "corpus")
    assert len(os.listdir(tmp_path / "corpus" / "slides")) == 3


def test_leftovers_are_removed_and_nothing_else(folder):
    own = contents(folder)
    for name in ("000003.partial", "000003-0123abcd.safetensors", "notes.txt"):
        (folder / "slides" / name).write_text("left")
    with CorpusWriter(folder, GENES, target_sum=1e4):
        pass
    assert contents(folder) == own | {"slides/notes.txt": b"left"}


def test_a_full_disk(folder):
    """The system refuses to let files grow beyond a limit, as it does when the disk is full."""
    before = contents(folder)
    large = random_slide(60, 60, seed=5, name="large")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CorpusWriter(folder, GENES, target_sum=1e4) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(
                OSError, match="slide 'large' could not be written.*keeps its 3 finished slides"
            ) as raised:
                writer.append([random_slide(seed=4, name="small"), large])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert raised.value.errno == errno.EFBIG
        assert contents(folder) == before
        writer.append(large)
    assert_same_slides(Corpus.open(folder)[3:], [large])


# Damage


def test_no_corpus(tmp_path):
    for call in (Corpus.open, Corpus.verify):
        with pytest.raises(FileNotFoundError, match="No corpus in .*build_corpus"):
            call(tmp_path)
    CorpusWriter(tmp_path / "corpus", GENES).close()
    with pytest.raises(ValueError, match="has no slide"):
        Corpus.open(tmp_path / "corpus")


def test_an_index_cut_short(folder):
    text = (folder / "corpus.json").read_bytes()
    for length in [*range(0, len(text), 97), len(text) - 1]:
        (folder / "corpus.json").write_bytes(text[:length])
        with pytest.raises(ValueError, match="is damaged"):
            Corpus.open(folder)


def test_an_index_with_one_bit_changed(folder):
    text = (folder / "corpus.json").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(text), 150):
        changed = bytearray(text)
        changed[place] ^= 1 << int(rng.integers(8))
        (folder / "corpus.json").write_bytes(changed)
        with pytest.raises(ValueError):
            Corpus.open(folder)


def put(*keys, value):
    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


SLIDE = ("slides", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("version", value=2), "has format version 2, this version of stimage reads 1: update"),
        (put("version", value={}), "has format version"),
        (put("format", value="zip"), "is not the index of a corpus"),
        (put("genes", value=GENES[:1]), "at least 2 are needed"),
        (put("genes", value=[["a", "b"], ["c", "d"]]), "must hold gene names"),
        (put("genes", value=dict.fromkeys(GENES)), "genes must be a list"),
        (put("genes", 0, value="g1"), "repeated names"),
        (put("genes", 0, value="other"), "checksum of the gene names"),
        (put("genes", 0, value="\ud800"), "damaged"),
        (put("ensembl_ids", value={"g1": ["x"]}), "must hold Ensembl gene ids"),
        (put("target_sum", value=float("nan")), "target_sum is nan"),
        (put("target_sum", value="1e4"), "target_sum is '1e4'"),
        (put("slides", value={}), "slides a list"),
        (put("slides", value=[None]), "each slide must be an object"),
        (lambda document: document.pop("notes") and None, "notes"),
        (lambda document: document["slides"][0].pop("sha256") and None, "sha256"),
        (put(*SLIDE, "extra", value=1), "extra"),
        (put(*SLIDE, "name", value=None), "name of a slide is no text"),
        (put(*SLIDE, "name", value="s1"), "several slides have the same name"),
        (put(*SLIDE, "name", value="other"), "is not the one that corpus.json describes"),
        (put(*SLIDE, "n_sites", value=7), "is not the one that corpus.json describes"),
        (put(*SLIDE, "n_sites", value=10**30), "is not the one that corpus.json describes"),
        (put(*SLIDE, "bytes", value=7), "does not have its 7 bytes"),
        (put(*SLIDE, "bytes", value=-1), "bytes of slide 's0' is -1"),
        (put(*SLIDE, "bytes", value=True), "bytes of slide 's0' is True"),
        (put(*SLIDE, "sha256", value="no"), "has no checksum"),
        *[
            (put(*SLIDE, "file", value=name), "has the file name")
            for name in (
                "../x",
                "/etc/passwd",
                "slides/../x",
                "slides/000000-0123abcd.safetensors\n",
                "",
                "slides/a\0b",
            )
        ],
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_hostile_index(folder, change, message):
    tamper(folder, change)
    with pytest.raises(ValueError, match=message):
        Corpus.open(folder)
    with pytest.raises(ValueError, match="damaged|is not the index|version"):
        Corpus.verify(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "null", "\x00", "{}", '{"format": NaN}'])
def test_something_else_in_place_of_the_index(folder, text):
    (folder / "corpus.json").write_text(text)
    with pytest.raises(ValueError):
        Corpus.open(folder)


def test_a_slide_that_is_missing_or_short(folder):
    (first, second, third) = sorted((folder / "slides").iterdir())
    os.truncate(second, second.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"slide 's1', file 'slides/000001-.*does not have its \d+ bytes"):
        Corpus.open(folder)
    third.unlink()
    with pytest.raises(ValueError, match=r"2 of 3 slides of the corpus .* damaged or missing: 's1 \(.*', 's2 \("):
        Corpus.verify(folder)
    os.truncate(second, second.stat().st_size + 1)
    first.unlink()
    with pytest.raises(FileNotFoundError, match="lacks slide 's0'"):
        Corpus.open(folder)


@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")
def test_a_slide_with_one_bit_changed(folder):
    """Found by `verify` wherever it is; nothing worse than an error happens before."""
    (_, path, _) = sorted((folder / "slides").iterdir())
    text = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in [*range(40), *rng.integers(0, len(text), 150)]:
        changed = bytearray(text)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            slide = Corpus.open(folder)[1]
            _ = slide.expression[:].toarray(), slide.hide(np.zeros(slide.n_sites, bool)).gene_mean
        except ValueError as error:
            refused += "s1" in str(error) or path.name in str(error)
        with pytest.raises(ValueError, match=r"1 of 3 slides .*'s1 \(slides/000001-"):
            Corpus.verify(folder)
    assert refused > 50


def header(*keys, value):
    return lambda document, _body: put(*keys, value=value)(document)


def values(name, value, place=0):
    def change(document, body):
        array(document, body, name)[place] = value

    return change


def extra_tensor(document, body):
    end = len(body)
    document["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    return body + b"\0\0\0\0"


@pytest.mark.parametrize(
    "change",
    [
        header("__metadata__", "layout", value="spiral"),
        header("__metadata__", "parity", value="7"),
        header("__metadata__", "target_sum", value="many"),
        header("__metadata__", "target_sum", value="nan"),
        header("__metadata__", "name", value=3),
        header("__metadata__", value=[]),
        header("__metadata__", value=["donor", "layout", "name", "parity", "spot_sketch", "target_sum"]),
        header("data", "shape", value=[10**18]),
        header("data", "shape", value=[-1]),
        header("data", "shape", value=["1"]),
        header("data", "shape", value=[]),
        header("data", "dtype", value="F64"),
        header("data", "data_offsets", value=[0, 10**18]),
        header("raster", "shape", value=[2, 3]),
        header("raster", "shape", value=[30]),
        header("raster", "shape", value=[5, 3, 2]),
        header("indptr", value=None),
        lambda document, _body: document.pop("library_size") and None,
        extra_tensor,
        lambda _document, body: body[:-1],
        lambda _document, body: body + b"\0",
        values("indptr", 10**12, place=3),
        values("indptr", -5),
        values("indptr", 10**6, place=-1),
        values("raster", 10**6),
        values("raster", -2),
        values("site_of_observation", 10**6),
        values("site_of_observation", -1),
        values("library_size", np.nan),
        values("library_size", -1),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_hostile_slide(folder, change):
    tamper_slide(folder, change)
    for call in (Corpus.open, Corpus.verify):
        with pytest.raises(ValueError, match="is damaged, slide 's0', file 'slides/000000-"):
            call(folder)


@pytest.mark.parametrize(
    "text", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\1" + b"\0" * 40]
)
def test_something_else_in_place_of_a_slide(folder, text):
    path = min((folder / "slides").iterdir())
    path.write_bytes(text)
    if text:
        tamper(folder, put(*SLIDE, "bytes", value=len(text)))
    with pytest.raises(ValueError, match="is damaged, slide 's0'"):
        Corpus.open(folder)


def test_the_lock_of_a_process_that_died_is_gone(folder):
    code = f"""
import os
from stimage.data import CorpusWriter
writer = CorpusWriter({str(folder)!r}, {list(GENES)!r}, target_sum=1e4)
print("locked", flush=True)
os.kill(os.getpid(), 9)
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (died.stdout, died.returncode) == ("locked\n", -9)
    with CorpusWriter(folder, GENES, target_sum=1e4) as writer:
        assert len(writer) == 3
