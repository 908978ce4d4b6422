from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

import stimage as sti

matplotlib.use("Agg")
BASELINE = Path(__file__).parent / "baseline"


@pytest.fixture
def assert_looks_like(tmp_path: Path) -> Callable[[Figure, str], None]:
    """Compare a figure with a stored one. Text is left out, since it is drawn differently by every FreeType.

    To store new ones, delete the files under ``tests/pl/baseline`` and run the tests; look at them before committing.
    """

    def compare(figure: Figure, name: str) -> None:
        for text in figure.findobj(Text):
            text.set_text("")
        for ax in figure.axes:
            ax.set(xticks=[], yticks=[])
        found = tmp_path / f"{name}.png"
        figure.savefig(found, dpi=36, metadata={"Software": None}, pil_kwargs={"optimize": True})
        expected = BASELINE / f"{name}.png"
        if not expected.exists():
            expected.write_bytes(found.read_bytes())
            pytest.fail(f"{expected} did not exist and was written: look at it")
        assert compare_images(str(expected), str(found), tol=4) is None

    return compare


@pytest.fixture
def tissue() -> AnnData:
    """A small hexagonal section with a grid."""
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=12, n_genes=40, n_domains=3)
    sti.pp.compact_grid(adata)
    return adata


@pytest.fixture
def sections() -> AnnData:
    """Three small square sections with a grid."""
    adata = sti.datasets.simulate_tissue(n_rows=12, n_cols=12, n_genes=40, n_domains=3, n_slides=3, layout="square")
    sti.pp.compact_grid(adata, slide_key="slide")
    return adata


@pytest.fixture
def model(tissue: AnnData) -> sti.models.STImage:
    """A model of the small section, not trained."""
    return sti.models.STImage(tissue, genes=tissue.var_names, window=8, n_genes=20, seed=3)
