import os
from pathlib import Path

import pytest

# Models in tests are tiny: more threads only wait for each other. Read when torch is imported, later.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real slides are not available")
    return folder
