import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from slides import random_slide

from stimage.data import Corpus, WindowDataModule, WindowSpec

SPEC = WindowSpec(window=8, n_genes=64)


def large_corpus(n_bytes):
    """One slide whose counts take so many bytes."""
    slide = random_slide(60, 60, n_genes=2, holes=0.0, empty=0.0)
    n_genes = 2 * n_bytes // (8 * slide.n_sites)
    rng = np.random.default_rng(0)
    # Every second gene of each site, with values of its own.
    indices = np.arange(0, n_genes, 2, dtype=np.int32)
    indptr = np.arange(slide.n_sites + 1, dtype=np.int64) * len(indices)
    data = rng.random(slide.n_sites * len(indices), dtype=np.float32)
    expression = sparse.csr_matrix((data, np.tile(indices, slide.n_sites), indptr), (slide.n_sites, n_genes))
    slide = replace(slide, expression=expression, measured=np.ones(n_genes, bool))
    return Corpus([slide], [f"gene{i}" for i in range(n_genes)])


def private_bytes(process):
    """Memory that a process shares with no other."""
    found = re.findall(r"^Private_\w+:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
    return 1024 * sum(map(int, found))


def bytes_of_workers(corpus):
    """Private memory of each of two workers after every part of the slide was in a window."""
    data = WindowDataModule(corpus, SPEC, batch_size=4, windows_per_epoch=160, num_workers=2)
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(36)]
    assert len(batches[0]["genes"]) == 4
    return [private_bytes(worker.pid) for worker in loader._workers]


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_workers_share_the_slides():
    n_bytes = 100_000_000
    small, large = bytes_of_workers(large_corpus(1_000_000)), bytes_of_workers(large_corpus(n_bytes))
    assert max(large) - min(small) < 0.2 * n_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_workers_read_a_stored_corpus_by_themselves(tmp_path):
    n_bytes = 100_000_000
    large_corpus(n_bytes).write(tmp_path / "corpus")
    small = bytes_of_workers(large_corpus(1_000_000))
    assert max(bytes_of_workers(Corpus.open(tmp_path / "corpus"))) - min(small) < 0.2 * n_bytes


def test_nothing_is_pinned_without_a_gpu():
    corpus = large_corpus(100_000)
    loader = WindowDataModule(corpus, SPEC, batch_size=4, windows_per_epoch=8).train_dataloader()
    assert not loader.pin_memory
    assert loader.num_workers == 0
