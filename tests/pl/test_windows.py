import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from sklearn.decomposition import PCA

import stimage as sti
from stimage.data import Corpus, WindowDataset, WindowSpec, principal_genes
from stimage.pl._windows import _DARKEST, _HIDDEN, false_colors

SPEC = WindowSpec(window=8, n_genes=20)


@pytest.fixture
def corpus(tissue):
    return Corpus.from_anndata(tissue, genes=tissue.var_names)


def cells(ax):
    return [collection for collection in ax.collections if isinstance(collection, PolyCollection)]


@pytest.mark.parametrize("masking", ["site", "region", "site_gene"])
def test_images(corpus, masking, assert_looks_like):
    spec = WindowSpec(window=8, n_genes=20, masking=masking)
    assert_looks_like(sti.pl.windows(corpus, n_windows=2, spec=spec), f"windows_{masking}")


def test_square_image(sections, assert_looks_like):
    corpus = Corpus.from_anndata(sections, genes=sections.var_names)
    assert_looks_like(sti.pl.windows(corpus, n_windows=2, spec=SPEC), "windows_square")


@pytest.mark.parametrize("seed", [0, 3])
def test_windows_are_those_of_training(corpus, seed):
    figure = sti.pl.windows(corpus, n_windows=3, spec=SPEC, seed=seed)
    assert len(figure.axes) == 6
    dataset = WindowDataset(corpus.slides, SPEC, seed=seed)
    for number in range(3):
        window = dataset[number]
        (whole,) = cells(figure.axes[number])
        hidden, visible = cells(figure.axes[3 + number])
        centres = [path.vertices[:-1].mean(axis=0) for path in whole.get_paths()]
        np.testing.assert_allclose(centres, window.positions[window.observed], atol=1e-5)
        centres = [path.vertices[:-1].mean(axis=0) for path in hidden.get_paths()]
        np.testing.assert_allclose(centres, window.positions[window.hidden], atol=1e-5)
        assert len(visible.get_paths()) == (window.observed & ~window.hidden).sum()
        assert {len(path.vertices) - 1 for path in whole.get_paths()} == {6}
        assert figure.axes[number].get_ylim()[0] > figure.axes[number].get_ylim()[1]


def test_colours_are_principal_components(corpus):
    (slide,) = corpus.slides
    axes, deviation = principal_genes(corpus.slides, 3)
    spec = WindowSpec(window=8, n_genes=len(corpus.genes))
    window = WindowDataset(corpus.slides, spec, seed=0)[0]
    colors = false_colors(window.expression, window, axes, deviation)[window.observed]
    pca = PCA(3).fit(slide.expression.toarray())
    genes = np.argsort(window.genes)
    scores = pca.transform(window.expression[window.observed][:, genes] + slide.gene_mean)
    expected = np.clip(0.5 + scores / pca.explained_variance_**0.5 / 4, 0, 1)
    for found, score in zip(((colors - _DARKEST) / (1 - _DARKEST)).T, expected.T, strict=True):
        # The sign of a component is arbitrary.
        np.testing.assert_allclose(found, min(score, 1 - score, key=lambda s: np.abs(s - found).sum()), atol=0.01)
    assert colors.min() > int(_HIDDEN[1:3], 16) / 255


def test_model_gives_slides_spec_and_seed(model):
    found, expected = sti.pl.windows(model), sti.pl.windows(model.corpus, spec=model.spec, seed=3)
    assert len(found.axes) == 8
    for one, other in zip(found.axes, expected.axes, strict=True):
        np.testing.assert_array_equal(cells(one)[-1].get_facecolor(), cells(other)[-1].get_facecolor())


def test_errors(corpus, tissue, model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="load"):
        sti.pl.windows(sti.models.STImage.load(tmp_path / "model"))
    with pytest.raises(TypeError, match="AnnData"):
        sti.pl.windows(tissue)
    with pytest.raises(ValueError, match="n_windows"):
        sti.pl.windows(corpus, n_windows=0)
