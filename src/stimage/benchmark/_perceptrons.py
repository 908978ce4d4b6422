from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from stimage.benchmark._splits import Split

HIDDEN_LAYERS = (512, 256, 128)


def train_perceptrons(
    vectors: np.ndarray,
    labels: np.ndarray,
    splits: Sequence[Split],
    *,
    n_epochs: int,
    batch_size: int,
    learning_rate: float,
    seeds: Sequence[int],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train a perceptron on each split, all at once.

    The networks are independent: each has its own start, order of spots and number of steps, and Adam works on single
    numbers. Their weights are stacked because steps of one small network cost more calls than arithmetic.

    Parameters
    ----------
    vectors
        Vectors of all spots (spots x dimensions).
    labels
        Their labels; only those of training spots matter.
    splits
        Training and test spots of each network.
    n_epochs, batch_size, learning_rate
        As in :func:`mlp_head`.
    seeds
        Seed of each network.

    Returns
    -------
    list of tuple
        Of each network: outputs for its test spots (spots x classes), and the classes it was trained on.
    """
    import torch
    from torch import nn

    vectors = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
    centre, spread = (
        torch.stack(parts) for parts in zip(*(_scale(vectors[split.train]) for split in splits), strict=True)
    )
    coded = [np.unique(labels[split.train], return_inverse=True) for split in splits]
    targets = torch.zeros(len(splits), len(vectors), dtype=torch.long)
    for row, split, (_, codes) in zip(targets, splits, coded, strict=True):
        row[split.train] = torch.from_numpy(codes)

    n_classes = [len(classes) for classes, _ in coded]
    starts = [
        _start([vectors.shape[1], *HIDDEN_LAYERS, n], max(n_classes), seed)
        for n, seed in zip(n_classes, seeds, strict=True)
    ]
    parameters = [torch.stack(parts).requires_grad_() for parts in zip(*(start for start, _ in starts), strict=True)]
    batches = [
        _batches(torch.from_numpy(split.train), n_epochs, batch_size, generator)
        for split, (_, generator) in zip(splits, starts, strict=True)
    ]
    # One pass over the weights per step: at this size the plain loop over tensors takes most of the time.
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    outputs = [np.empty(0)] * len(splits)
    training = np.arange(len(splits))
    n_steps = np.array([n_epochs * -(-len(split.train) // batch_size) for split in splits])
    for step in range(n_steps.max() + 1):
        done = n_steps[training] == step
        for place in np.flatnonzero(done):
            number = training[place]
            test = (vectors[splits[number].test] - centre[place]) / spread[place]
            with torch.inference_mode():
                outputs[number] = _forward([part[place, None] for part in parameters], test[None])[0].numpy()
        if done.any():
            kept = np.flatnonzero(~done)
            training, centre, spread, targets = training[kept], centre[kept], spread[kept], targets[kept]
            _keep(optimizer, parameters, kept)
        if not len(training):
            break
        drawn = [next(batches[number]) for number in training]
        spots = nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        sizes = torch.tensor([[len(batch)] for batch in drawn])
        optimizer.zero_grad()
        features = (vectors[spots] - centre[:, None]) / spread[:, None]
        _loss(parameters, features, targets.gather(1, spots), sizes).backward()
        optimizer.step()
    return [(found[:, : len(classes)], classes) for found, (classes, _) in zip(outputs, coded, strict=True)]


def _scale(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each dimension; 1 for one that is constant."""
    spread = features.std(dim=0, correction=0)
    return features.mean(dim=0), spread.where(spread > 1e-6 * spread.max().clamp(min=1e-12), 1)


def _start(sizes: list[int], n_outputs: int, seed: int) -> tuple[list[torch.Tensor], torch.Generator]:
    """Weights and biases of each layer, and the generator after their draw.

    Outputs up to those of the network with the most classes get no weight and a bias of minus infinity, hence no
    probability, no gradient and no update.
    """
    import torch
    from torch import nn

    parameters = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for n_in, n_out in pairwise(sizes):
            layer = nn.Linear(n_in, n_out)
            parameters += [layer.weight.detach().T, layer.bias.detach()[None]]
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
    more = (0, n_outputs - sizes[-1])
    parameters[-2:] = nn.functional.pad(parameters[-2], more), nn.functional.pad(parameters[-1], more, value=-torch.inf)
    return parameters, generator


def _batches(spots: torch.Tensor, n_epochs: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    import torch

    for _ in range(n_epochs):
        yield from spots[torch.randperm(len(spots), generator=generator)].split(batch_size)


def _forward(parameters: Sequence[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Outputs (networks x spots x classes) for features (networks x spots x dimensions)."""
    import torch

    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        features = torch.baddbmm(bias, features, weight).relu()
    return torch.baddbmm(parameters[-1], features, parameters[-2])


def _loss(
    parameters: Sequence[torch.Tensor], features: torch.Tensor, targets: torch.Tensor, sizes: torch.Tensor
) -> torch.Tensor:
    """Sum over networks of the mean cross-entropy of their first ``sizes`` spots."""
    import torch

    losses = torch.nn.functional.cross_entropy(_forward(parameters, features).mT, targets, reduction="none")
    return (losses * (torch.arange(losses.shape[1]) < sizes) / sizes).sum()


def _keep(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor], kept: np.ndarray) -> None:
    """Leave out networks that are done, with their moments."""
    for parameter in parameters:
        optimizer.state[parameter].update(
            {name: optimizer.state[parameter][name][kept] for name in ("exp_avg", "exp_avg_sq")}
        )
        parameter.grad = None
        parameter.data = parameter.data[kept]
