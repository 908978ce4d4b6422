import subprocess
import sys
from importlib import metadata

import pytest

import stimage

HEAVY = {"torch", "scvi", "scanpy", "squidpy", "anndata", "matplotlib", "sklearn", "lightning", "numba"}


def fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy():
    loaded = fresh_python("import sys; before = set(sys.modules); import stimage; print(*(set(sys.modules) - before))")
    assert not HEAVY & {name.partition(".")[0] for name in loaded.split()}


def test_import_takes_less_than_a_tenth_of_a_second():
    code = "import time; start = time.perf_counter(); import stimage; print(time.perf_counter() - start)"
    assert min(float(fresh_python(code)) for _ in range(5)) < 0.1


@pytest.mark.parametrize(
    "names",
    ["pp import *", "io import *", "datasets import *", "data import Slide, Vocabulary, SlideImage, site_positions"],
)
def test_preparing_data_needs_no_torch(names):
    loaded = fresh_python(f"import sys; from stimage.{names}; print(*sys.modules)")
    assert not {"torch", "lightning", "scvi"} & set(loaded.split())


def test_subpackages_load_on_first_use():
    assert fresh_python("import stimage as sti; print(sti.datasets.simulate_tissue.__name__)") == "simulate_tissue"


def test_version_is_the_installed_one():
    try:
        expected = metadata.version("stimage")
    except metadata.PackageNotFoundError:
        pytest.skip("stimage is on the path but not installed")
    assert stimage.__version__ == expected


def test_dir_lists_what_can_be_reached():
    assert set(stimage.__all__) <= set(dir(stimage))
    assert "__version__" in dir(stimage)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = stimage.no_such_thing
