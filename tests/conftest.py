import os
import sys
from pathlib import Path

import pytest

# Models in tests are tiny: more threads only wait for each other. Read when torch is imported, later.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def one_thread():
    """Parallel numba code, as in scanpy's neighbours, sets the number of threads of torch as well."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real slides are not available")
    return folder
