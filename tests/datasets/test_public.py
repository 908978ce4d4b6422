"""Downloads, from a server of our own: the hosts of public slides are not needed."""

import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from io_layouts import write_10x_h5, write_positions
from slides import visium

import stimage as sti
from stimage.datasets import _public


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    """A server of the files in a folder."""
    (tmp_path / "www").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www"))
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, tmp_path / "www"
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def archives(server, tmp_path, monkeypatch):
    """Archives in the layout of those of 10x, at addresses of the server."""
    running, www = server
    slide = visium(6, 7, seed=2)
    square = tmp_path / "hd" / "outs" / "binned_outputs" / "square_008um"
    write_positions(square / "spatial" / "tissue_positions.parquet", slide)
    write_10x_h5(square / "filtered_feature_bc_matrix.h5", slide)
    cells = tmp_path / "xenium"
    cells.mkdir()
    write_10x_h5(cells / "cell_feature_matrix.h5", slide)
    table = pd.DataFrame({"cell_id": slide.obs_names})
    table[["x_centroid", "y_centroid"]] = slide.obsm["spatial"]
    table.to_csv(cells / "cells.csv.gz", index=False)
    changed = {}
    for name, folder in (("visium_hd_tiny", tmp_path / "hd"), ("xenium_ovary_tiny", cells)):
        known = _public._SLIDES[name]
        with zipfile.ZipFile(www / known.file, "w") as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder))
        address = f"http://127.0.0.1:{running.server_port}/{known.file}"
        changed[name] = _public._Archive(address, known.folder)
    monkeypatch.setattr(_public, "_SLIDES", {**_public._SLIDES, **changed})
    return running, slide


@pytest.mark.parametrize("name", ["visium_hd_tiny", "xenium_ovary_tiny"])
def test_downloaded_once_and_read(archives, tmp_path, name):
    server, slide = archives
    for _ in range(2):
        found = sti.datasets.public_slide(name, path=tmp_path / "kept")
        np.testing.assert_array_equal(found.X.toarray(), slide.X.toarray())
        np.testing.assert_array_equal(found.obsm["spatial"], slide.obsm["spatial"])
        assert len(server.requests) == 1
    archive = tmp_path / "kept" / name / _public._SLIDES[name].file
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the file that was downloaded first \(SHA-256 .* delete it and"):
        sti.datasets.public_slide(name, path=tmp_path / "kept")


def test_a_file_that_was_put_there_by_hand(archives, tmp_path):
    server, slide = archives
    known = _public._SLIDES["xenium_ovary_tiny"]
    place = tmp_path / "kept" / "xenium_ovary_tiny"
    place.mkdir(parents=True)
    (place / known.file).write_bytes((tmp_path / "www" / known.file).read_bytes())
    assert sti.datasets.public_slide("xenium_ovary_tiny", path=tmp_path / "kept").n_obs == slide.n_obs
    assert not server.requests
    assert (place / f"{known.file}.sha256").is_file()


@pytest.mark.parametrize("name", list(_public._SLIDES))
def test_offline_it_says_what_to_download_where(tmp_path, offline, name):
    with pytest.raises(
        ConnectionError, match="cannot be downloaded. On a machine with internet, download https://"
    ) as error:
        sti.datasets.public_slide(name, path=tmp_path)
    assert str(tmp_path) in str(error.value)
    if name == "visium_heart_histology":
        assert "V1_Human_Heart_image.tif" in str(error.value)


def test_unknown_names():
    with pytest.raises(ValueError, match="`name` must be one of 'visium_breast_cancer'"):
        sti.datasets.public_slide("other")


def test_checksums_of_visium_are_those_of_squidpy():
    """The registry that squidpy downloads by has a SHA-256 for every file that is wanted."""
    from squidpy.datasets._registry import get_registry

    for slide in _public._SLIDES.values():
        if isinstance(slide, _public._Visium):
            files = {file.name: file.sha256 for file in get_registry()[slide.sample].files}
            wanted = ["filtered_feature_bc_matrix.h5", "spatial.tar.gz", *(["image.tif"] if slide.histology else [])]
            assert all(len(files[name]) == 64 for name in wanted)
