"""How much of a training step on the CPU is matrix products, and how much is waiting for data.

    python benchmarks/training_step.py               # docs/results/training_step.json; about four minutes on two cores
    python benchmarks/training_step.py --one-thread  # keeps what is stored of several threads, measures one thread again
    python benchmarks/training_step.py --short       # seconds, writes nothing

The products of a step, forward and backward, are recorded with their shapes and memory layouts. Each is then timed alone with
``torch.matmul`` in the same run, steps and products in turn; the sum of these times is the floor that no implementation of the
same products with this library gets below, except where a fused kernel does without writing scores of attention. Attention is
counted as its two products forward and four backward, at the head size of the model.

Steps on several threads are timed by the clock and hold what threads wait for each other. On one thread it is processor
time, which other work on the machine hardly changes: what the code itself costs beside its products.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

from stimage.data import Slide, WindowDataset, WindowSpec, collate_windows
from stimage.models._presets import PRESETS
from stimage.modules import MaskedAutoencoder
from stimage.train import MaskedTrainingPlan

Layout = tuple[tuple[int, ...], tuple[int, ...]]
Product = tuple[Layout, Layout]


def simulated_slide(n_rows: int, n_cols: int, n_genes: int, *, density: float) -> Slide:
    """A hexagonal slide of random sparse expression; what is in it does not matter here, how much there is does."""
    rng = np.random.default_rng(0)
    n_sites = n_rows * n_cols
    expression = sparse.random(n_sites, n_genes, density=density, format="csr", dtype=np.float32, random_state=rng)
    expression.data = np.log1p(1 + 4 * expression.data)
    return Slide(
        name="simulated",
        expression=expression,
        library_size=np.full(n_sites, 1000.0, dtype=np.float32),
        raster=np.arange(n_sites, dtype=np.int32).reshape(n_rows, n_cols),
        layout="hex",
        parity=0,
        measured=np.ones(n_genes, dtype=bool),
        observation_index=np.arange(n_sites),
        site_of_observation=np.arange(n_sites),
    )


class Products(TorchDispatchMode):
    """Records every matrix product that is run, and how often."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.counts: Counter[tuple[str, Product]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self._add(name, *args[:2])
        elif name in ("addmm", "baddbmm"):
            self._add(name, *args[1:3])
        elif name == "_scaled_dot_product_flash_attention_for_cpu":
            self._add_attention(*args[:3], backward=False)
        elif name == "_scaled_dot_product_flash_attention_for_cpu_backward":
            self._add_attention(*args[1:4], backward=True)
        elif "attention" in name:
            raise RuntimeError(f"{name}: attention fell back to another kernel than the fused one.")
        return function(*args, **(kwargs or {}))

    def _add(self, name: str, *factors: torch.Tensor) -> None:
        self.counts[name, tuple((tuple(factor.shape), factor.stride()) for factor in factors)] += 1

    def _add_attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, backward: bool) -> None:
        n_heads = query.shape[0] * query.shape[1]
        looking = torch.empty(n_heads, query.shape[2], self.head_size, device="meta")
        looked_at = torch.empty(n_heads, key.shape[2], self.head_size, device="meta")
        scores = torch.empty(n_heads, query.shape[2], key.shape[2], device="meta")
        products = [(looking, looked_at.mT), (scores, looked_at)]
        if backward:
            products += [(scores.mT, looking)] * 2
        for factors in products:
            self._add("attention", *factors)


def time_of(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def product_of(layouts: Product) -> Callable[[], torch.Tensor]:
    factors = [torch.empty_strided(shape, stride).normal_() for shape, stride in layouts]
    return lambda: torch.matmul(*factors)


def operations(layouts: Product) -> int:
    (*batch, n, k), (*_, m) = layouts[0][0], layouts[1][0]
    return 2 * int(np.prod(batch, dtype=np.int64)) * n * k * m


def measure(
    preset: str, slide: Slide, *, batch_size: int, n_genes: int, repeats: int, clock: Callable[[], float]
) -> dict:
    config = PRESETS[preset]
    torch.manual_seed(0)
    module = MaskedAutoencoder(slide.expression.shape[1], config.autoencoder)
    plan = MaskedTrainingPlan(module, config.optimizer, n_steps=100)
    optimizer = plan.configure_optimizers()["optimizer"]
    spec = WindowSpec(window=16, n_genes=n_genes, masking=config.masking, mask_ratio=config.mask_ratio)
    windows = WindowDataset([slide], spec, seed=0)

    def read(number: int) -> dict[str, torch.Tensor]:
        return collate_windows([windows[i] for i in range(number * batch_size, (number + 1) * batch_size)])

    def step(batch: dict[str, torch.Tensor]) -> None:
        loss = module.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.gradient_clip)
        optimizer.step()

    batch = read(0)
    step(batch)
    with Products(config.autoencoder.dim // config.autoencoder.n_heads) as products:
        step(batch)
    calls = {key: product_of(key[1]) for key in products.counts}
    steps, reads, alone = [], [], {key: [] for key in calls}
    for number in range(1, repeats + 1):
        reads.append(time_of(lambda number=number: read(number), clock))
        steps += [time_of(lambda: step(batch), clock) for _ in range(2)]
        for key, call in calls.items():
            alone[key].append(time_of(call, clock))
    # Other work on the machine only ever adds time.
    step_time, read_time = min(steps), min(reads)
    by_kind: Counter[str] = Counter()
    for (kind, layouts), times in alone.items():
        by_kind[kind] += products.counts[kind, layouts] * min(times)
    floor = sum(by_kind.values())
    n_operations = sum(count * operations(layouts) for (_, layouts), count in products.counts.items())
    return {
        "preset": preset,
        "batch_size": batch_size,
        "n_genes": n_genes,
        "seconds_per_step": step_time,
        "seconds_of_products_alone": floor,
        "seconds_of_products_by_kind": dict(by_kind),
        "share_of_products": floor / step_time,
        "billion_operations_per_step": n_operations / 1e9,
        "billion_operations_per_second": n_operations / 1e9 / step_time,
        "seconds_of_data_per_batch": read_time,
        "share_of_data": read_time / (read_time + step_time),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("docs/results/training_step.json"))
    parser.add_argument("--one-thread", action="store_true")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    sizes = {"batch_size": 32, "n_genes": 512, "repeats": arguments.repeats}
    slide, side = simulated_slide(70, 70, 4000, density=0.1), 2048
    if arguments.short:
        sizes = {"batch_size": 2, "n_genes": 64, "repeats": 1}
        slide, side = simulated_slide(20, 20, 200, density=0.1), 256

    def run(threads: int, clock: Callable[[], float]) -> dict:
        torch.set_num_threads(threads)
        square = torch.randn(side, side)
        large = ((square.shape, square.stride()),) * 2
        rate = operations(large) / min(time_of(lambda: square @ square, clock) for _ in range(5)) / 1e9
        records = []
        for preset in arguments.presets:
            records.append(measure(preset, slide, **sizes, clock=clock))
            print(json.dumps(records[-1], indent=1), flush=True)
        return {
            "threads": threads,
            "versions": {"torch": torch.__version__},
            "billion_operations_per_second_of_a_large_product": rate,
            "steps": records,
        }

    document = {"command": "python benchmarks/training_step.py"}
    if arguments.one_thread:
        document |= json.loads(arguments.output.read_text())
    else:
        document |= run(arguments.threads, time.perf_counter)
    document["one_thread"] = run(1, time.process_time)
    if not arguments.short:
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
