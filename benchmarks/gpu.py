"""Training and embedding on one GPU through the public calls: what is achieved, and what it is up against in the same run.

    python benchmarks/gpu.py --output gpu.json                     # some minutes on a GPU
    python benchmarks/gpu.py --output gpu.json --corpus PATH       # real slides, a corpus that was built before
    python benchmarks/gpu.py --short                               # under a minute on the CPU

The package is all that must be installed; nothing is downloaded. Without ``--corpus`` slides are simulated: what is in them does
not change the time.

- products: rate of large matrix products in 16 bits, and in 32 bits.
- training: ``STImage(preset="paper").train(sampling="device", precision="bf16-mixed")``: windows per second between two steps,
  the share of it that cutting windows takes alone, the products of a step (counted by PyTorch, forward and backward) against the
  rate of large ones, and the seconds from the last step to the return of ``train``.
- embedding: ``STImage.get_latent_representation`` of all slides, in both modes.
- images: features per second while ``STAlign`` is built, less the time that it takes when they are on the disk already.
- precision: cosines of vectors, and relative error of a reconstruction, on the device against the CPU in 32 bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import stimage as sti

ENCODER = "resnet50"
"""Its layers are the package's own; a random start takes as long as published weights."""


class Clock(lightning.Callback):
    """Seconds of the steps of a training after the first few, with the device idle before and after."""

    def __init__(self, n_first: int) -> None:
        self.n_first = n_first
        self.n_steps = 0
        self.start = self.last = 0.0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.n_steps += 1
        if self.n_steps == self.n_first or self.n_steps == trainer.num_training_batches:
            wait()
            now = time.perf_counter()
            self.start, self.last = (self.last or now), now

    @property
    def seconds(self) -> float:
        return (self.last - self.start) / (self.n_steps - self.n_first)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object], repeats: int = 1, inner: int = 1) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        for _ in range(inner):
            function()
        wait()
        times.append((time.perf_counter() - start) / inner)
    return statistics.median(times)


def simulated(n_sites: int, n_genes: int, side: int) -> sti.data.Corpus:
    """Slides of one simulated tissue with as many sites in all, each with a copy of the expression of its own."""
    adata = sti.datasets.simulate_tissue(n_rows=side, n_cols=side, n_genes=n_genes, n_domains=4)
    sti.pp.compact_grid(adata)
    one = sti.data.Corpus.from_anndata(adata, genes=adata.var_names)
    slide = one[0]
    slides = [
        replace(slide, name=f"slide {number}", expression=slide.expression.copy())
        for number in range(-(-n_sites // slide.n_sites))
    ]
    return sti.data.Corpus(slides, one.vocabulary)


def product_rates(device: torch.device, size: int) -> dict[str, float]:
    rates = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        factor = torch.randn(size, size, dtype=dtype, device=device)
        seconds_of(lambda factor=factor: factor @ factor, inner=3)
        rates[name] = 2 * size**3 / seconds_of(lambda factor=factor: factor @ factor, repeats=5, inner=5)
    return rates


def operations_of_step(module: sti.modules.MaskedAutoencoder, batch: dict[str, torch.Tensor]) -> int:
    """Operations of all products of a step, forward and backward; attention as the products that it is made of."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.loss(batch).backward()
    module.zero_grad()
    return counter.get_total_flops()


def measure_training(
    corpus: sti.data.Corpus, device: torch.device, rate: float, *, batch_size: int, n_steps: int, **sizes: int
) -> dict[str, float]:
    model = sti.models.STImage(corpus, preset="paper", **sizes)
    clock = Clock(n_first=max(n_steps // 4, 1))
    model.train(
        1,
        sampling="device",
        precision="bf16-mixed",
        batch_size=batch_size,
        windows_per_epoch=n_steps * batch_size,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    after = time.perf_counter() - clock.last
    windows = sti.data.DeviceWindows(list(model.corpus), model.spec, device=device, seed=0)
    numbers = torch.arange(batch_size, device=device)
    sampling = seconds_of(lambda: windows.batch(numbers), repeats=5)
    few = min(batch_size, 4)  # whose scores of attention may be kept
    module = model.module.to(device)
    module.site_limits = sti.data.site_limits(model.spec)
    operations = operations_of_step(module, windows.batch(range(few))) * batch_size / few
    return {
        "batch_size": batch_size,
        "n_genes": model.spec.n_genes,
        "window": model.spec.window,
        "seconds_per_step": clock.seconds,
        "windows_per_second": batch_size / clock.seconds,
        "share_of_sampling": sampling / clock.seconds,
        "operations_per_second": operations / clock.seconds,
        "share_of_large_product": operations / clock.seconds / rate,
        "seconds_after_last_step": after,
    }


def measure_embedding(model: sti.models.STImage, corpus: sti.data.Corpus) -> dict[str, dict[str, float]]:
    found = {}
    for mode in ("visible", "context"):
        n_sites = sum(slide.n_sites for slide in corpus)
        seconds = seconds_of(lambda mode=mode: model.get_latent_representation(corpus, mode=mode))
        found[mode] = {"n_sites": n_sites, "seconds": seconds, "sites_per_second": n_sites / seconds}
    return found


def measure_precision(model: sti.models.STImage, slide: sti.data.Slide, vocabulary: Any) -> dict[str, float]:
    corpus = sti.data.Corpus([slide], vocabulary)
    hidden = np.isin(np.arange(slide.n_sites), slide.raster[2:6, 2:6])
    found = {}
    for mode in ("visible", "context"):
        one, other = (
            model.get_latent_representation(corpus, mode=mode, accelerator=name).astype(np.float64)
            for name in ("auto", "cpu")
        )
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found[f"smallest_cosine_{mode}"] = float(((one * other).sum(axis=1) / lengths).min())
    one, other = (model.reconstruct(slide, hidden, accelerator=name) for name in ("auto", "cpu"))
    found["relative_error_of_reconstruction"] = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    return found


def measure_images(side: int) -> dict[str, float]:
    """Features of two patches of each spot and two of each niche, cut from a simulated image."""
    adata = sti.datasets.simulate_tissue(n_rows=side, n_cols=side, n_genes=60, n_domains=3, image=True)
    sti.pp.compact_grid(adata)
    sti.pp.build_niches(adata)
    encoder = sti.modules.load_image_encoder(ENCODER)
    with tempfile.TemporaryDirectory() as folder:

        def build() -> sti.models.STAlign:
            return sti.models.STAlign(adata, n_pool_genes=50, image_encoder=encoder, cache_dir=folder)

        first, again = seconds_of(build), seconds_of(build)
    n_patches = 4 * adata.n_obs
    return {"encoder": ENCODER, "n_patches": n_patches, "patches_per_second": n_patches / max(first - again, 1e-9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--corpus", type=Path, help="a corpus on disk; simulated without")
    parser.add_argument("--sites", type=int, default=700_000, help="simulated sites")
    parser.add_argument("--genes", type=int, default=2000, help="simulated vocabulary")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not arguments.short:
        parser.error("there is no GPU; --short checks that everything runs, on the CPU")
    sizes = {"window": 16, "n_genes": 512}
    side, product, n_steps, image_side = 120, 8192, 60, 60
    if arguments.short:
        arguments.sites, arguments.genes, arguments.batch_sizes = 800, 64, [2]
        sizes = {"window": 6, "n_genes": 16}
        side, product, n_steps, image_side = 20, 128, 4, 6
    if arguments.corpus is None:
        corpus = simulated(arguments.sites, arguments.genes, side)
    else:
        corpus = sti.data.Corpus.open(arguments.corpus)
    document: dict[str, Any] = {
        "command": "python benchmarks/gpu.py" + (" --short" if arguments.short else ""),
        "data": "simulated" if arguments.corpus is None else "corpus",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "n_sites": sum(slide.n_sites for slide in corpus),
        "n_genes": len(corpus.genes),
    }

    def note(part: str, record: Any) -> None:
        # Written after every measurement: what was measured is kept when time runs out.
        document[part] = record
        print(part, json.dumps(record), flush=True)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(document, indent=1) + "\n")

    rates = product_rates(device, product)
    note("operations_per_second_of_a_large_product", rates)
    training = []
    for batch_size in arguments.batch_sizes:
        options = {"batch_size": batch_size, "n_steps": n_steps, **sizes}
        training.append(measure_training(corpus, device, rates["bfloat16"], **options))
        note("training", training)
    model = sti.models.STImage(corpus, **sizes)
    model.train(1, windows_per_epoch=2 * n_steps, batch_size=2, enable_progress_bar=False)
    note("precision", measure_precision(model, corpus[0], corpus.vocabulary))
    note("embedding", measure_embedding(model, corpus))
    note("images", measure_images(image_side))


if __name__ == "__main__":
    main()
