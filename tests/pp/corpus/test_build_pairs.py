"""Niches and image features beside a corpus: each slide once, whatever stops the work."""

import numpy as np
import pytest
from filelock import FileLock
from helpers import assert_unchanged
from io_layouts import write_hest, write_stimage_1k4m
from PIL import Image
from scipy import sparse
from slides import visium
from stained import apart, stained_tissue, tiny_encoder
from torch import nn

from stimage import pp
from stimage.data import StoredPairs
from stimage.models import PatchSpec
from stimage.models.alignment._setup import ImageReader, paired_corpus_of


@pytest.fixture(scope="module")
def sections():
    """Three sections of about 70 spots, one of which is of another donor."""
    found = apart(stained_tissue(11, 9, n_slides=3, seed=0))
    for adata, donor in zip(found, ["ann", "bob", "ann"], strict=True):
        adata.obs["donor"] = donor
    return found


@pytest.fixture
def folder(sections, tmp_path):
    pp.build_corpus(sections, tmp_path / "corpus", n_pool_genes=40, donor_key="donor")
    return tmp_path / "corpus"


class Failing(nn.Module):
    """A backbone that stops after some patches, as a process that is killed does."""

    def __init__(self, backbone, n_patches):
        super().__init__()
        self.backbone, self.left = backbone, n_patches

    def forward(self, pixels):
        self.left -= len(pixels)
        if self.left < 0:
            raise KeyboardInterrupt
        return self.backbone(pixels)


class Counting(Failing):
    """A backbone that counts its patches."""

    def __init__(self, backbone):
        super().__init__(backbone, 10**9)

    @property
    def seen(self):
        return 10**9 - self.left


def wrapped(kind, *args):
    encoder = tiny_encoder()
    encoder.backbone = kind(encoder.backbone, *args)
    return encoder


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_features_and_niches_are_those_in_memory(sections, folder):
    with assert_unchanged(sections[0]):
        pairs = pp.build_pairs(sections, folder, image_encoder=tiny_encoder())
    reader = ImageReader(tiny_encoder().eval(), tiny_encoder().eval(), PatchSpec(), None, None)
    expected = paired_corpus_of(sections, pairs.corpus.vocabulary, niche_key="niche", reader=reader)
    for found, slide in zip(pairs.slides, expected.slides, strict=True):
        assert (found.niches != slide.niches.astype(bool)).nnz == 0
        for name in ("spot_image", "niche_image"):
            values = getattr(slide, name)
            # Within 3 of the mean, 16 bits have steps of 2 ** -10 at the most.
            np.testing.assert_allclose(getattr(found, name)[:], values, rtol=2**-11, atol=1e-6)
            rows = [5, 0, 5]
            np.testing.assert_array_equal(getattr(found, name)[rows], getattr(found, name)[:][rows])
            np.testing.assert_array_equal(getattr(found, name)[found.measured], getattr(found, name)[:][found.measured])
    assert [slide.slide.donor for slide in pairs.slides] == ["ann", "bob", "ann"]
    part = pairs.subset([pairs.corpus[2].name, pairs.corpus[0].name])
    assert [slide.name for slide in part.corpus] == [pairs.corpus[2].name, pairs.corpus[0].name]
    assert part.slides == [pairs.slides[2], pairs.slides[0]]
    assert part.corpus.source == [2, 0]
    with pytest.raises(KeyError, match="'nobody'"):
        pairs.subset(["nobody"])
    table = pairs.report()
    assert table["status"].tolist() == 3 * ["stored"]
    assert table["n_spots"].tolist() == [adata.n_obs for adata in sections]


def test_a_build_that_is_stopped_goes_on(sections, folder, tmp_path):
    n_patches = [4 * adata.n_obs for adata in sections]
    with pytest.raises(KeyboardInterrupt):
        pp.build_pairs(sections, folder, image_encoder=wrapped(Failing, n_patches[0] + n_patches[1] // 2))
    assert len(StoredPairs.open(folder).slides) == 1
    before = contents(folder / "pairs.zarr")
    encoder = wrapped(Failing, sum(n_patches[1:]))
    pairs = pp.build_pairs(sections, folder, image_encoder=encoder)
    assert encoder.backbone.left == 0
    assert len(pairs.slides) == 3
    after = contents(folder / "pairs.zarr")
    kept = {path: content for path, content in before.items() if path.parent != pairs_group(folder)}
    assert kept.items() <= after.items()
    assert not list(folder.glob(".pairs*"))
    again = wrapped(Failing, 0)
    pp.build_pairs(sections, folder, image_encoder=again)
    assert contents(folder / "pairs.zarr") == after


def pairs_group(folder):
    (group,) = [path for path in (folder / "pairs.zarr").iterdir() if path.is_dir()]
    return group


def test_slides_and_encoders_are_added(sections, tmp_path):
    folder = tmp_path / "corpus"
    pp.build_corpus(sections[:2], folder, n_pool_genes=40)
    first = pp.build_pairs(sections[:1], folder, image_encoder=tiny_encoder())
    assert first.report()["reason"].tolist() == ["", "its source was not passed"]
    pp.build_corpus(sections, folder, n_pool_genes=40)
    encoder = wrapped(Counting)
    assert len(pp.build_pairs(sections, folder, image_encoder=tiny_encoder()).slides) == 3
    other = pp.build_pairs(sections[1:], folder, image_encoder=encoder, patches=PatchSpec((1.0,), (1.0,)), rings=1)
    assert encoder.backbone.seen == 2 * sum(adata.n_obs for adata in sections[1:])
    assert [slide.slide.name for slide in other.slides] == [slide.name for slide in other.corpus]
    assert max(np.diff(other.slides[0].niches.indptr)) == 7  # a spot and the six around it
    with pytest.raises(ValueError, match="2 groups of image features"):
        StoredPairs.open(folder)
    names = sorted(path.name for path in (folder / "pairs.zarr").iterdir() if path.is_dir())
    assert {len(StoredPairs.open(folder, image_encoder=name).slides) for name in names} == {2, 3}


def test_small_slides_and_those_without_an_image_are_left_out(sections, tmp_path):
    few = sections[0][:30].copy()
    empty = sections[1].copy()
    empty.X = sparse.csr_matrix(sparse.diags(np.arange(empty.n_obs) < 49, dtype=np.float32) @ empty.X)
    without = sections[2].copy()
    without.uns = {**without.uns, "spatial": {}}
    many = sections[0].copy()
    many.obs_names = [f"{name}-again" for name in many.obs_names]
    slides = [few, empty, without, many]
    pp.build_corpus(slides, tmp_path / "corpus", genes=sections[0].var_names[:40], grid_key="grid")
    with pytest.warns(UserWarning, match="3 of 4 slides are left out"):
        pairs = pp.build_pairs(slides, tmp_path / "corpus", image_encoder=tiny_encoder())
    table = pairs.report()
    assert table["status"].tolist() == [*3 * ["left out"], "stored"]
    assert table["n_spots_with_counts"].tolist()[:2] == [30, 49]
    for reason, expected in zip(
        table["reason"], ["30 spots have counts", "49 spots have counts", "no image"], strict=False
    ):
        assert reason.startswith(expected)
    assert len(pairs.slides) == 1
    # The same features serve another limit, and only what is missing is computed.
    with pytest.warns(UserWarning, match="2 of 4"):
        assert len(pp.build_pairs(slides, tmp_path / "corpus", image_encoder=tiny_encoder(), min_spots=49).slides) == 2
    with pytest.warns(UserWarning, match="3 of 4"):
        assert len(pp.build_pairs(slides, tmp_path / "corpus", image_encoder=tiny_encoder()).slides) == 1


def test_donors_that_differ(sections, folder):
    other = sections[1].copy()
    other.obs["donor"] = "cleo"
    with pytest.raises(ValueError, match="of donor 'cleo' here and of donor 'bob' in the corpus"):
        pp.build_pairs([sections[0], other], folder, image_encoder=tiny_encoder())
    assert len(StoredPairs.open(folder).slides) == 1


def test_donors_that_the_corpus_does_not_know(sections, tmp_path):
    pp.build_corpus(sections[:2], tmp_path / "corpus", n_pool_genes=40)
    pairs = pp.build_pairs(sections[:2], tmp_path / "corpus", image_encoder=tiny_encoder(), donor_key="donor")
    assert [slide.donor for slide in pairs.corpus] == ["ann", "bob"]
    assert pairs.report()["donor"].tolist() == ["ann", "bob"]


def test_what_is_refused(sections, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="run `stimage.pp.build_pairs`"):
        StoredPairs.open(folder)
    with pytest.raises(FileNotFoundError, match="No corpus"):
        pp.build_pairs(sections, tmp_path / "nowhere", image_encoder=tiny_encoder())
    stranger = apart(stained_tissue(seed=9))
    with pytest.raises(ValueError, match="is not in the corpus: add it"):
        pp.build_pairs(stranger, folder, image_encoder=tiny_encoder())
    with pytest.raises(ValueError, match="`image_encoder` is None"):
        pp.build_pairs(sections, folder, image_encoder=None)
    (folder / ".pairs.zarr.partial").mkdir(exist_ok=True)
    with FileLock(folder / ".pairs.zarr.partial" / "lock"), pytest.raises(RuntimeError, match="Another process"):
        pp.build_pairs(sections, folder, image_encoder=tiny_encoder())


def test_damage_is_noticed(sections, folder):
    pp.build_pairs(sections, folder, image_encoder=tiny_encoder())
    place = sorted(path for path in pairs_group(folder).iterdir() if path.is_dir())[0]
    chunk = next(path for path in (place / "spot_image").rglob("*") if path.is_file() and path.name != "zarr.json")
    content = chunk.read_bytes()
    for damage, error in (
        (chunk.unlink, "is gone"),
        (lambda: chunk.write_bytes(content[:10]), "ends too early"),
        (lambda: chunk.write_bytes(b"\xff" * len(content)), "is damaged"),
    ):
        damage()
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            StoredPairs.open(folder).slides[0].spot_image[[0]]
    chunk.write_bytes(content)
    (place / "niche_image" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="are damaged"):
        StoredPairs.open(folder)


@pytest.mark.parametrize("write", [write_hest, write_stimage_1k4m])
def test_public_collections(tmp_path, write):
    """Their slides name their images; one image is not there, for which HEST has a smaller one."""
    slides = {f"S{seed}": visium(9, 8, seed=seed) for seed in range(3)}
    write(tmp_path / "copy", slides)
    if write is write_stimage_1k4m:
        for name, adata in slides.items():
            width, height = (adata.obsm["spatial"].max(axis=0) + 50).astype(int)
            Image.new("RGB", (width, height), (200, 180, 220)).save(tmp_path / f"copy/Visium/image/{name}.png")
    corpus = pp.build_public_corpus(tmp_path / "copy", tmp_path / "corpus", n_pool_genes=8, splits_by=None)
    for image in (tmp_path / "copy").rglob("S1.[pt][ni][gf]"):
        image.unlink()
    paths = corpus.report()["path"].tolist()
    if write is write_hest:
        table = pp.build_pairs(paths, tmp_path / "corpus", image_encoder=tiny_encoder()).report()
        assert table["image_scale"].tolist() == pytest.approx([1.0, 0.1, 1.0])
        assert table["donor"].tolist() == [f"a study: Patient {number}" for number in (1, 2, 3)]
    else:
        with pytest.warns(UserWarning, match="1 of 3 slides are left out: 'S1', no image"):
            pairs = pp.build_pairs(paths, tmp_path / "corpus", image_encoder=tiny_encoder())
        assert [slide.name for slide in pairs.corpus] == ["S0", "S2"]
