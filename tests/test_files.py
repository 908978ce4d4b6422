import hashlib
import subprocess
import sys

import pytest

from stimage._files import lock_file, sha256_of, write_durably, written_whole


def test_checksum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_files_appear_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "first", tmp_path / "second"]
    with written_whole(*paths) as drafts:
        for draft in drafts:
            draft.write_text("old")
        assert not any(path.exists() for path in paths)
    with pytest.raises(OSError, match="disk full"), written_whole(*paths) as drafts:
        drafts[0].write_text("new")
        raise OSError("disk full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first": "old", "second": "old"}


def test_an_error_of_a_durable_write_names_the_file(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_durably(tmp_path / "nowhere" / "file", b"abc")


LOCKED = """
import os, sys
from pathlib import Path
from stimage._files import lock_file
lock = lock_file(Path(sys.argv[1]), "busy")
print("locked", flush=True)
sys.stdin.read()
os._exit(1)  # nothing is cleaned up
"""


def test_a_lock_goes_with_its_process(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKED, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(RuntimeError, match="somebody else writes"):
        lock_file(tmp_path / "lock", "somebody else writes")
    other.communicate("")
    lock_file(tmp_path / "lock", "somebody else writes").release()
    lock_file(tmp_path / "lock", "somebody else writes").release()
