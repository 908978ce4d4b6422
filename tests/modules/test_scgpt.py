"""scGPT's encoder against a forward pass written out in numpy, from checkpoints in the published layout."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import sparse

from stimage.modules import ScGPTEncoder
from stimage.modules._scgpt import _tokens, bin_values

GENES = ["GAPDH", "MOBP", "SNAP25", "PVALB", "CCK", "FABP7", "NPY", "HBB"]
DIM, HEADS, HIDDEN, LAYERS = 12, 3, 20, 2
COUNTS = np.array([[7, 3, 0, 1, 12, 0, 5, 2], [0, 1, 4, 0, 2, 0, 0, 9]])


@pytest.fixture
def arguments():
    """``args.json`` as published, with entries that only training reads."""
    return {
        "embsize": DIM,
        "nheads": HEADS,
        "d_hid": HIDDEN,
        "nlayers": LAYERS,
        "n_layers_cls": 3,
        "dropout": 0.2,
        "pad_token": "<pad>",
        "pad_value": -2,
        "mask_value": -1,
        "n_bins": 51,
        "input_emb_style": "continuous",
        "fast_transformer": True,
    }


@pytest.fixture
def vocabulary():
    return {gene: index for index, gene in enumerate(GENES)}


@pytest.fixture
def tensors(vocabulary):
    """Random tensors under the published names, those of decoders included."""
    shapes = {
        "encoder.embedding.weight": (len(vocabulary) + 3, DIM),
        "value_encoder.linear1.weight": (DIM, 1),
        "value_encoder.linear1.bias": (DIM,),
        "value_encoder.linear2.weight": (DIM, DIM),
        "value_encoder.linear2.bias": (DIM,),
        "flag_encoder.weight": (2, DIM),
        "decoder.fc.0.weight": (DIM, DIM),
        "mvc_decoder.gene2query.weight": (DIM, DIM),
        "cls_decoder.out_layer.bias": (1,),
    }
    norms = ["encoder.enc_norm", "value_encoder.norm"]
    for layer in (f"transformer_encoder.layers.{index}" for index in range(LAYERS)):
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        for name, n_in, n_out in (
            ("self_attn.Wqkv", DIM, 3 * DIM),
            ("self_attn.out_proj", DIM, DIM),
            ("linear1", DIM, HIDDEN),
            ("linear2", HIDDEN, DIM),
        ):
            shapes |= {f"{layer}.{name}.weight": (n_out, n_in), f"{layer}.{name}.bias": (n_out,)}
    shapes |= {f"{norm}.{part}": (DIM,) for norm in norms for part in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.7 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    # Bends of the value encoder within the range of bins, and attention that matters: vectors must differ between cells.
    tensors["value_encoder.linear1.bias"] *= 40
    for name in tensors:
        if name.endswith("out_proj.weight"):
            tensors[name] *= 4
    return tensors


@pytest.fixture
def write(tmp_path, arguments, vocabulary, tensors):
    """Write the checkpoint, after changes."""

    def to_disk(arguments=arguments, vocabulary=vocabulary, tensors=tensors, file="best_model.pt"):
        (tmp_path / "args.json").write_text(json.dumps(arguments))
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        if file.endswith(".safetensors"):
            save_file(tensors, tmp_path / file)
        else:
            torch.save(tensors, tmp_path / file)
        return tmp_path

    return to_disk


@pytest.fixture
def encoder(write):
    return ScGPTEncoder.from_directory(write())


def normalised(x, weight, bias):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x * weight + bias


def vector_by_hand(tensors, genes, bins):
    """The ``<cls>`` vector of one cell, token by token."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    genes, values = [len(GENES) + 1, *genes], [-2.0, *bins]

    def linear(x, name):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(x, name):
        return normalised(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    tokens = []
    for gene, value in zip(genes, values, strict=True):
        hidden = np.maximum(linear(np.array([value]), "value_encoder.linear1"), 0)
        token = norm(weights["encoder.embedding.weight"][gene], "encoder.enc_norm")
        tokens.append(token + norm(linear(hidden, "value_encoder.linear2"), "value_encoder.norm"))
    for layer in (f"transformer_encoder.layers.{index}" for index in range(LAYERS)):
        projected = [linear(token, f"{layer}.self_attn.Wqkv") for token in tokens]
        attended = []
        for i in range(len(tokens)):
            heads = []
            for head in range(HEADS):
                part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                scores = [projected[i][:DIM][part] @ p[DIM : 2 * DIM][part] / (DIM // HEADS) ** 0.5 for p in projected]
                share = np.exp(scores) / np.exp(scores).sum()
                heads.append(sum(w * p[2 * DIM :][part] for w, p in zip(share, projected, strict=True)))
            attended.append(linear(np.concatenate(heads), f"{layer}.self_attn.out_proj"))
        tokens = [norm(t + a, f"{layer}.norm1") for t, a in zip(tokens, attended, strict=True)]
        hidden = [np.maximum(linear(token, f"{layer}.linear1"), 0) for token in tokens]
        tokens = [
            norm(t + linear(h, f"{layer}.linear2"), f"{layer}.norm2") for t, h in zip(tokens, hidden, strict=True)
        ]
    return tokens[0] / np.linalg.norm(tokens[0])


def expected_vectors(tensors, counts=COUNTS, n_bins=51):
    """All counts of a cell differ, so that no bin is drawn: it is the number of quantiles up to the count."""
    vectors = []
    for row in counts:
        genes = np.flatnonzero(row)
        edges = np.quantile(row[genes], np.linspace(0, 1, n_bins - 1))
        bins = [sum(edge <= row[gene] for edge in edges) for gene in genes]
        vectors.append(vector_by_hand(tensors, genes, bins))
    return np.array(vectors)


def test_vectors(encoder, tensors):
    vectors = encoder.encode(COUNTS, GENES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected_vectors(tensors), atol=2e-6)
    assert not np.allclose(vectors[0], vectors[1], atol=0.01)
    np.testing.assert_allclose(
        encoder.encode(COUNTS, GENES, n_bins=11), expected_vectors(tensors, n_bins=11), atol=2e-6
    )


@pytest.mark.parametrize("attention", ["self_attn.in_proj_", "self_attn._impl.Wqkv."])
def test_names_of_attention(write, tensors, attention):
    renamed = {
        name.replace("self_attn.Wqkv.", attention).replace(
            "self_attn.out_proj", "self_attn._impl.out_proj" if "_impl" in attention else "self_attn.out_proj"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert set(renamed) != set(tensors)
    vectors = ScGPTEncoder.from_directory(write(tensors=renamed)).encode(COUNTS, GENES)
    np.testing.assert_allclose(vectors, expected_vectors(tensors), atol=2e-6)


def test_safetensors(write, tensors):
    vectors = ScGPTEncoder.from_directory(write(file="model.safetensors")).encode(COUNTS, GENES)
    np.testing.assert_allclose(vectors, expected_vectors(tensors), atol=2e-6)


def test_special_tokens_that_the_vocabulary_has_keep_their_place(write, vocabulary, tensors):
    """The same model with its rows in another order."""
    moved = {"<cls>": 0, **{gene: index + 1 for gene, index in vocabulary.items()}}
    order = [len(GENES) + 1, *range(len(GENES)), len(GENES), len(GENES) + 2]
    embedding = tensors["encoder.embedding.weight"][order]
    encoder = ScGPTEncoder.from_directory(
        write(vocabulary=moved, tensors={**tensors, "encoder.embedding.weight": embedding})
    )
    assert {token: encoder.vocabulary[token] for token in ("<cls>", "<pad>", "<eoc>")} == {
        "<cls>": 0,
        "<pad>": len(GENES) + 1,
        "<eoc>": len(GENES) + 2,
    }
    np.testing.assert_allclose(encoder.encode(COUNTS, GENES), expected_vectors(tensors), atol=2e-6)


def test_unknown_genes_and_order_of_genes_do_not_matter(encoder):
    order = np.random.default_rng(0).permutation(len(GENES))
    counts = np.column_stack([COUNTS[:, order], [[5], [3]]])
    vectors = encoder.encode(counts, [*(GENES[gene] for gene in order), "no such gene"])
    np.testing.assert_array_equal(vectors, encoder.encode(COUNTS, GENES))


def test_genes_are_told_apart(encoder):
    swapped = [GENES[1], GENES[0], *GENES[2:]]
    assert np.abs(encoder.encode(COUNTS, swapped) - encoder.encode(COUNTS, GENES)).max() > 1e-3


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_kinds_of_matrix(encoder, kind):
    counts = kind(COUNTS.astype(np.float32))
    np.testing.assert_array_equal(encoder.encode(counts, GENES), encoder.encode(COUNTS, GENES))


def test_stored_zeros_and_duplicates_are_left_alone(encoder):
    counts = sparse.csr_matrix(([7, 0, 2, 1], [0, 1, 3, 3], [0, 4]), shape=(1, len(GENES)))
    dense = counts.toarray()
    np.testing.assert_array_equal(encoder.encode(counts, GENES), encoder.encode(dense, GENES))
    assert counts.nnz == 4


def test_cells_do_not_depend_on_each_other(encoder):
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.8, (40, len(GENES)))
    counts[:, 0] += 1
    vectors = encoder.encode(counts, GENES, max_length=4)
    np.testing.assert_allclose(encoder.encode(counts, GENES, max_length=4, batch_size=1), vectors, atol=2e-6)
    order = generator.permutation(40)
    np.testing.assert_allclose(encoder.encode(counts[order], GENES, max_length=4), vectors[order], atol=2e-6)


def test_more_genes_than_fit_are_drawn_with_the_bins_of_all(encoder, tensors):
    row = COUNTS[0]
    genes = np.flatnonzero(row)
    edges = np.quantile(row[genes], np.linspace(0, 1, 50))
    possible = [
        vector_by_hand(tensors, chosen, [(edges <= row[gene]).sum() for gene in chosen])
        for chosen in itertools.combinations(genes, 3)
    ]
    drawn = [encoder.encode(row[None], GENES, max_length=4, seed=seed)[0] for seed in range(30)]
    found = {int(np.abs(np.array(possible) - vector).max(axis=1).argmin()) for vector in drawn}
    assert max(np.abs(np.array(possible) - vector).max(axis=1).min() for vector in drawn) < 2e-6
    assert len(found) > 10  # of 20


def test_seed(encoder):
    counts = np.ones((3, len(GENES)), dtype=int)  # every bin is drawn
    first = encoder.encode(counts, GENES, seed=1)
    np.testing.assert_array_equal(first, encoder.encode(counts, GENES, seed=1))
    assert np.abs(first - encoder.encode(counts, GENES, seed=2)).max() > 1e-3


def test_draws_of_cells_are_independent():
    """Of cells with the same counts in other genes, too."""
    bins = [
        _tokens(np.arange(8) + first, np.ones(8), max_length=100, n_bins=51, seed=0)[1] for first in range(0, 4000, 8)
    ]
    between_genes = np.corrcoef(np.transpose(bins))
    assert len(np.unique(bins, axis=0)) == 500
    assert np.abs(between_genes - np.eye(8)).max() < 0.2
    assert abs(np.mean(bins) - 25.5) < 1.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=80), st.integers(3, 60), st.integers(0, 1000))
def test_bins(values, n_bins, seed):
    """The published rule, value by value, from the same random numbers."""
    values = np.array(values, dtype=float)
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    random = np.random.default_rng(seed).random(len(values))
    expected = []
    for value, number in zip(values, random, strict=True):
        below, up_to = sum(edge < value for edge in edges), sum(edge <= value for edge in edges)
        expected.append(np.ceil(number * (below - up_to) + up_to))
    bins = bin_values(values, n_bins, np.random.default_rng(seed))
    np.testing.assert_array_equal(bins, expected)
    assert 1 <= bins.min() <= bins.max() <= n_bins - 1


def test_bins_of_a_worked_example():
    """Quantiles at 0, 1/4, ..., 1 of 1 1 2 5 9 are 1 1 2 5 9: a one is in the first or the second bin."""
    bins = np.array([bin_values(np.array([1.0, 1, 2, 5, 9]), 6, np.random.default_rng(seed)) for seed in range(200)])
    assert (bins[:, 2:] == [3, 4, 5]).all()
    assert set(bins[:, :2].ravel()) == {1, 2}
    assert abs(bins[:, :2].mean() - 1.5) < 0.1


def test_equal_values_spread_over_all_bins():
    bins = bin_values(np.ones(20_000), 51, np.random.default_rng(0))
    counts = np.bincount(bins, minlength=51)
    assert counts[0] == 0 and len(counts) == 51
    assert np.abs(counts[1:] - 400).max() < 100


def test_published_size():
    vocabulary = {f"gene {index}": index for index in range(500)} | {"<pad>": 500, "<cls>": 501, "<eoc>": 502}
    encoder = ScGPTEncoder(vocabulary).requires_grad_(False)
    # 12 layers of 512: attention 4 x 512^2, feed-forward 2 x 512^2, biases and two norms.
    layer = 6 * 512**2 + (4 + 2 + 4) * 512
    values = 512**2 + 5 * 512
    assert sum(p.numel() for p in encoder.parameters()) == 12 * layer + values + 503 * 512 + 2 * 512
    counts = np.random.default_rng(0).poisson(0.1, (2, 500))
    vectors = encoder.encode(counts, list(vocabulary)[:500])
    assert vectors.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_too_few_genes(encoder):
    ensembl = [f"ENSG{index:011d}" for index in range(7)]
    with pytest.raises(ValueError, match=r"(?s)`genes`: 0 of 8 .*ENSG00000000000.*'GAPDH'"):
        encoder.encode(COUNTS, [*ensembl, "<pad>"])


@pytest.mark.parametrize(
    ("counts", "genes", "options", "error", "message"),
    [
        (COUNTS.tolist(), GENES, {}, TypeError, "`counts`.*list"),
        (COUNTS.astype(str), GENES, {}, TypeError, "dtype"),
        (COUNTS, GENES[:-1], {}, ValueError, r"7 `genes`, found \(2, 8\)"),
        (COUNTS[:0], GENES, {}, ValueError, "one row per cell"),
        (-COUNTS, GENES, {}, ValueError, "negative"),
        (COUNTS / np.nan, GENES, {}, ValueError, "NaN"),
        (COUNTS, [*GENES[:-1], "MOBP"], {}, ValueError, "repeated names.*MOBP"),
        (COUNTS * [[1], [0]], GENES, {}, ValueError, "1 cells express no gene .*rows '1'"),
        (COUNTS, GENES, {"max_length": 1}, ValueError, "`max_length`"),
        (COUNTS, GENES, {"n_bins": 2}, ValueError, "`n_bins`"),
        (COUNTS, GENES, {"batch_size": 0}, ValueError, "`batch_size`"),
        (COUNTS, GENES, {"seed": -1}, ValueError, "`seed`"),
    ],
)
def test_bad_input(encoder, counts, genes, options, error, message):
    with pytest.raises(error, match=message):
        encoder.encode(counts, genes, **options)


@pytest.mark.parametrize("file", ["args.json", "vocab.json", "best_model.pt"])
def test_missing_file(write, file):
    folder = write()
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        ScGPTEncoder.from_directory(folder)


@pytest.mark.parametrize("file", ["args.json", "vocab.json", "best_model.pt", "model.safetensors"])
def test_truncated_file(write, file):
    folder = write(file="model.safetensors") if file == "model.safetensors" else write()
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"(?s){file}.*truncated"):
        ScGPTEncoder.from_directory(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embsize": None}, "args.json .*'embsize'"),
        ({"nheads": 5}, "multiple"),
        ({"pre_norm": True}, "pre_norm=True"),
        ({"input_emb_style": "category"}, "input_emb_style='category'"),
        ({"nlayers": LAYERS + 1}, "12 tensors are missing"),
        ({"d_hid": HIDDEN + 1}, "6 have another shape"),
    ],
)
def test_altered_arguments(write, arguments, change, message):
    with pytest.raises(ValueError, match=message):
        ScGPTEncoder.from_directory(write(arguments={**arguments, **change}))


@pytest.mark.parametrize("change", [{"HBB": 9}, {"HBB": 0}, {"HBB": "7"}, {"HBB": 7.0}])
def test_altered_vocabulary(write, vocabulary, change):
    with pytest.raises(ValueError, match="vocab.json must map 8 names"):
        ScGPTEncoder.from_directory(write(vocabulary={**vocabulary, **change}))


def test_vocabulary_of_another_model(write, vocabulary):
    with pytest.raises(ValueError, match=r"encoder.embedding.weight: \(11, 12\) instead of \(12, 12\)"):
        ScGPTEncoder.from_directory(write(vocabulary={**vocabulary, "IGKC": 8}))


def test_tensor_that_changes_the_vector_is_not_ignored(write, tensors):
    """Batch normalisation of the tokens, which some fine-tuned models have."""
    with pytest.raises(ValueError, match="1 are unexpected .'bn.weight'"):
        ScGPTEncoder.from_directory(write(tensors={**tensors, "bn.weight": torch.ones(DIM)}))


def test_pickled_objects_are_refused(write):
    with pytest.raises(ValueError, match="pickled objects"):
        ScGPTEncoder.from_directory(write(tensors={"encoder": ScGPTEncoder}))
