from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from stimage.benchmark import Split, mlp_head
from stimage.benchmark._perceptrons import train_perceptrons

# Longer, and a unit that rounding turns on or off makes two fits drift apart, whatever the implementation.
OPTIONS = {"n_epochs": 2, "batch_size": 16, "learning_rate": 1e-3}


def one_by_one(vectors, labels, split, seed, *, n_epochs, batch_size, learning_rate):
    """A plain training loop of one network: its outputs for the test spots, and its classes."""
    training = vectors[split.train].astype(np.float32)
    features, test = (
        torch.from_numpy((part.astype(np.float32) - training.mean(axis=0)) / training.std(axis=0))
        for part in (training, vectors[split.test])
    )
    classes, codes = np.unique(labels[split.train], return_inverse=True)
    target = torch.from_numpy(codes)
    torch.manual_seed(seed)
    sizes = [vectors.shape[1], 512, 256, 128, len(classes)]
    network = nn.Sequential(*[module for pair in pairwise(sizes) for module in (nn.Linear(*pair), nn.ReLU())][:-1])
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, foreach=False)
    for _ in range(n_epochs):
        order = torch.randperm(len(target))
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(features[batch]), target[batch]).backward()
            optimizer.step()
    with torch.inference_mode():
        return network(test).numpy(), classes


@pytest.fixture
def spots():
    """Overlapping classes; training sets of several sizes, one without class "c"."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 60)
    vectors = rng.normal(size=(180, 5)) + 0.7 * np.repeat(np.eye(5)[:3], 60, axis=0)
    orders = [rng.permutation(180) for _ in range(3)]
    splits = [Split(order[:n], order[n:]) for order, n in zip(orders, (40, 64, 40), strict=True)]
    return vectors, labels, [*splits, Split(np.arange(0, 120, 5), np.arange(1, 180, 5))]


def test_against_a_loop_over_networks(spots):
    vectors, labels, splits = spots
    seeds = [3, 4, 5, 3]
    before = torch.get_rng_state()
    found = train_perceptrons(vectors, labels, splits, seeds=seeds, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    for split, seed, (outputs, classes) in zip(splits, seeds, found, strict=True):
        reference, expected = one_by_one(vectors, labels, split, seed, **OPTIONS)
        assert classes.tolist() == expected.tolist()
        np.testing.assert_allclose(outputs, reference, atol=1e-4)


def test_a_single_fit_is_the_same(spots):
    vectors, labels, splits = spots
    together = train_perceptrons(vectors, labels, splits, seeds=[0] * 4, **OPTIONS)
    for split, (outputs, classes) in zip(splits, together, strict=True):
        ((alone, _),) = train_perceptrons(vectors, labels, [split], seeds=[0], **OPTIONS)
        np.testing.assert_allclose(outputs, alone, atol=1e-4)
        options = {"n_epochs": OPTIONS["n_epochs"], "batch_size": OPTIONS["batch_size"], "seed": 0}
        found = mlp_head(vectors[split.train], labels[split.train], vectors[split.test], **options)
        np.testing.assert_array_equal(found, classes[alone.argmax(axis=1)])
