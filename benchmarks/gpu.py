"""Training and embedding on one GPU: what is achieved, and what it is up against in the same run.

    python benchmarks/gpu.py --output gpu.json                     # some minutes on an H100
    python benchmarks/gpu.py --output gpu.json --corpus PATH       # real slides, a corpus that was built before
    python benchmarks/gpu.py --short                               # seconds on the CPU, writes nothing

PyTorch, lightning, numba, scipy and safetensors are enough, nothing is downloaded, and stimage need not be installed. Without
``--corpus`` slides are simulated on the device: what is in them does not change the time.

- products: rate of large matrix products in 16 bits, and in 32 bits.
- sampling: time of a batch of windows, and its share of a step with it.
- steps: time of forward, backward and optimiser. The rate counts the products of the model alone, each once forward and twice
  backward, and is compared with that of the large product in 16 bits.
- precision: loss and gradients of one batch in 16 bits, against 32.
- embedding: visible and context vectors of a large corpus, tile by tile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

try:
    import stimage  # noqa: F401
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from stimage.data import Corpus, DeviceWindows, Slide, WindowSpec, crop, site_limits, window_positions
from stimage.data.sampling.device._dense_expression import DenseExpression
from stimage.modules import AutoencoderConfig, MaskedAutoencoder

# The presets of stimage.models, which needs more packages than are here; a test compares them.
PRESETS = {
    "default": (AutoencoderConfig(), 0.75),
    "paper": (
        AutoencoderConfig(
            dim=256,
            n_layers=6,
            n_heads=8,
            dim_feedforward=1024,
            decoder_layers=2,
            decoder_feedforward=512,
            relative_error=False,
        ),
        0.3,
    ),
}
REPEATS = {"visible": 1, "context": 3}
"""How often the choice of hidden sites is repeated; for the context, one half is hidden, then the other."""


def simulated(n_sites: int, n_genes: int, side: int, device: torch.device) -> tuple[list[Slide], DenseExpression]:
    """Square slides with as many sites in all, and random expression, a tenth of it not zero."""
    slides = []
    for number in range(-(-n_sites // side**2)):
        slides.append(
            Slide(
                name=str(number),
                expression=sparse.csr_matrix((side**2, n_genes), dtype=np.float32),
                library_size=np.ones(side**2, dtype=np.float32),
                raster=np.arange(side**2, dtype=np.int32).reshape(side, side),
                layout="hex",
                parity=number % 2,
                measured=np.ones(n_genes, dtype=bool),
                observation_index=np.arange(side**2),
                site_of_observation=np.arange(side**2),
                centre=np.full(n_genes, 0.1, dtype=np.float32),
            )
        )
    values = torch.zeros(len(slides) * side**2 + 1, n_genes, dtype=torch.float16, device=device)
    generator = torch.Generator(device).manual_seed(0)
    for part in values[:-1].split(side**2):
        drawn = torch.rand(part.shape, dtype=torch.float32, device=device, generator=generator)
        part.copy_(torch.where(drawn < 0.1, 1 + 20 * drawn, 0.0))
    return slides, DenseExpression(values, [slide.expression for slide in slides])


class Timer:
    """Median time of a call, with the device idle before and after."""

    def __init__(self, device: torch.device, *, repeats: int, inner: int) -> None:
        self.device = device
        self.repeats = repeats
        self.inner = inner

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __call__(self, function: Callable[[], object]) -> float:
        for _ in range(self.inner):
            function()
        times = []
        for _ in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            for _ in range(self.inner):
                function()
            self.wait()
            times.append((time.perf_counter() - start) / self.inner)
        return statistics.median(times)


def product_rates(timer: Timer, size: int) -> dict[str, float]:
    rates = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        factor = torch.randn(size, size, dtype=dtype, device=timer.device)
        rates[name] = 2 * size**3 / timer(lambda factor=factor: factor @ factor)
    return rates


def step_operations(config: AutoencoderConfig, limits: tuple[int, int], n_windows: int, n_genes: int) -> int:
    """Operations of the products of a step: of what a window has at most, without padding and without recomputing."""
    shown, hidden = limits
    dim = config.dim

    def block(n_queries: int, n_keys: int, feedforward: int) -> int:
        projections = 2 * n_queries * dim + 2 * n_keys * dim + 2 * n_queries * feedforward
        return dim * (projections + 2 * n_queries * n_keys)

    if config.decoder_layers:
        total = config.n_layers * block(shown, shown, config.dim_feedforward)
        total += (config.decoder_layers - 1) * block(shown + hidden, shown + hidden, config.decoder_feedforward)
        total += block(hidden, shown + hidden, config.decoder_feedforward)
    else:
        total = (config.n_layers - 1) * block(shown + hidden, shown, config.dim_feedforward)
        total += block(hidden, shown, config.dim_feedforward)
    total += shown * n_genes * dim + hidden * dim * (dim + n_genes)
    # Masked sites start from means, whose weights need no gradient.
    means = 0 if config.decoder_layers else 4 * hidden * shown * dim
    # Two operations each, once forward and twice backward; expression needs no gradient.
    return n_windows * (6 * total - 2 * shown * n_genes * dim + means)


class Training:
    """A module, its optimiser and a way to take a step."""

    def __init__(self, preset: str, windows: DeviceWindows, variant: str) -> None:
        config, _ = PRESETS[preset]
        device = windows.device
        torch.manual_seed(0)
        self.module = MaskedAutoencoder(windows.expression.values.shape[1], config).to(device)
        self.module.site_limits = site_limits(windows.spec)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled="bf16" in variant)
        fused = "fused" in variant
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-4, fused=fused, foreach=not fused)
        self.loss = self.module.loss
        if "graphs" in variant:
            self.loss = torch.compile(self.module.loss, mode="reduce-overhead")
        elif "compile" in variant:
            self.loss = torch.compile(self.module.loss)

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with self.autocast:
            loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def windows_of(
    preset: str, slides: list[Slide], expression: DenseExpression, *, window: int, n_genes: int
) -> DeviceWindows:
    spec = WindowSpec(window=window, n_genes=n_genes, masking="site", mask_ratio=PRESETS[preset][1])
    return DeviceWindows(slides, spec, device=expression.values.device, seed=0, expression=expression)


def measure_sampling(windows: DeviceWindows, timer: Timer, batch_size: int, compiled: bool) -> float:
    sample = torch.compile(windows.batch) if compiled else windows.batch
    numbers = torch.arange(batch_size, device=windows.device)
    return timer(lambda: sample(numbers))


def measure_step(
    preset: str, variant: str, windows: DeviceWindows, timer: Timer, batch_size: int, large_product: float
) -> dict:
    training = Training(preset, windows, variant)
    numbers = torch.arange(batch_size, device=windows.device)
    batch = windows.batch(numbers)
    start = time.perf_counter()
    training.step(batch)
    timer.wait()
    first = time.perf_counter() - start
    if windows.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(windows.device)
    seconds = timer(lambda: training.step(batch))
    sample = torch.compile(windows.batch) if "compile" in variant or "graphs" in variant else windows.batch
    with_sampling = timer(lambda: training.step(sample(numbers)))
    config = PRESETS[preset][0]
    operations = step_operations(config, site_limits(windows.spec), batch_size, windows.spec.n_genes)
    return {
        "preset": preset,
        "variant": variant,
        "batch_size": batch_size,
        "seconds_of_first_step": first,
        "seconds_per_step": seconds,
        "seconds_per_step_with_sampling": with_sampling,
        "share_of_sampling": max(1 - seconds / with_sampling, 0.0),
        "windows_per_second": batch_size / with_sampling,
        "operations_per_second": operations / seconds,
        "share_of_large_product": operations / seconds / large_product,
        "peak_gigabytes": torch.cuda.max_memory_allocated(windows.device) / 1e9
        if windows.device.type == "cuda"
        else None,
    }


def measure_precision(preset: str, windows: DeviceWindows) -> dict[str, float]:
    """Relative differences of 16 bits from 32, after a few steps that give every parameter a gradient."""
    training = Training(preset, windows, "float32 fused")
    batch = windows.batch(range(32))
    for _ in range(5):
        training.step(batch)

    def loss_and_gradient(enabled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        training.module.zero_grad()
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=enabled):
            loss = training.module.loss(batch)
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in training.module.parameters() if p.grad is not None])

    (expected, gradient), (loss, other) = loss_and_gradient(False), loss_and_gradient(True)
    return {
        "loss": float((loss / expected - 1).abs()),
        "gradient": float((other - gradient).norm() / gradient.norm()),
    }


class Embedding:
    """Vectors of both modes, as models compute them, without averaging over tiles in numpy."""

    def __init__(self, module: MaskedAutoencoder, expression: DenseExpression, *, tile: int, batch_size: int) -> None:
        self.module = module
        self.expression = expression
        self.tile = tile
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, slides: list[Slide]) -> dict[str, torch.Tensor]:
        generator = torch.Generator(self.expression.values.device).manual_seed(0)
        parts = [self._slide(slide, generator) for slide in slides]
        return {mode: torch.cat([part[mode] for part in parts]) for mode in REPEATS}

    def _slide(self, slide: Slide, generator: torch.Generator) -> dict[str, torch.Tensor]:
        device, module = self.expression.values.device, self.module
        first = self.expression.first_row(slide)
        embedding = module.genes.embedding
        values = self.expression.values[first : first + slide.n_sites]
        centre = torch.from_numpy(slide.gene_mean).to(device) @ embedding
        tokens = torch.cat([part.float() @ embedding - centre for part in values.split(1 << 16)])
        tokens = module.genes.normalise(tokens)
        tiles, positions = self._tiles(slide, device)
        empty = torch.as_tensor(~slide.active, device=device)
        found = {}
        for mode, n_repeats in REPEATS.items():
            total = torch.zeros(slide.n_sites, tokens.shape[1], device=device)
            times = torch.zeros(slide.n_sites, 1, device=device)
            for _ in range(n_repeats):
                half = torch.rand(slide.n_sites, device=device, generator=generator).argsort() % 2 == 0
                for hidden in [torch.zeros_like(half)] if mode == "visible" else [half, ~half]:
                    wanted = ~empty if mode == "visible" else hidden & ~empty
                    vectors = self._pass(tokens, hidden | empty, tiles, positions)
                    total += torch.where(wanted.unsqueeze(1), vectors, 0)
                    times += wanted.unsqueeze(1)
            found[mode] = total / times
        return found

    def _tiles(self, slide: Slide, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        starts = [
            sorted({*range(0, max(n - self.tile, 1), self.tile // 2), max(n - self.tile, 0)}) for n in slide.shape
        ]
        corners = [(top, left) for top in starts[0] for left in starts[1]]
        sites = [crop(slide.raster, *corner, self.tile, self.tile).ravel() for corner in corners]
        positions = [window_positions(slide, *corner, self.tile, self.tile) for corner in corners]
        return (torch.as_tensor(np.stack(part), device=device) for part in (sites, positions))

    def _pass(
        self, tokens: torch.Tensor, hidden: torch.Tensor, tiles: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros(len(tokens) + 1, tokens.shape[1], device=tokens.device)
        times = torch.zeros(len(tokens) + 1, 1, device=tokens.device)
        for sites, places in zip(tiles.split(self.batch_size), positions.split(self.batch_size), strict=True):
            tissue = sites >= 0
            sites = torch.where(tissue, sites, len(tokens))
            out_of_sight = hidden[sites.clamp(max=len(hidden) - 1)] & tissue
            # Visible sites come first: what is hidden is looked at by none.
            visible = tissue & ~out_of_sight
            order = visible.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            sites, tissue, out_of_sight = (part.gather(1, order) for part in (sites, tissue, out_of_sight))
            places = places.gather(1, order.unsqueeze(2).expand(-1, -1, 2))
            n_visible = int(visible.sum(dim=1).max())
            vectors = self.module(
                tokens[sites.clamp(max=len(tokens) - 1)], places, tissue, out_of_sight, n_visible=n_visible or None
            )
            total.index_add_(0, sites.flatten(), vectors.flatten(0, 1).float())
            times.index_add_(0, sites.flatten(), torch.ones_like(sites.flatten(), dtype=torch.float32).unsqueeze(1))
        return total[:-1] / times[:-1].clamp(min=1)


def measure_embedding(
    slides: list[Slide], expression: DenseExpression, timer: Timer, *, tile: int, batch_size: int
) -> list[dict]:
    records = []
    n_sites = sum(slide.n_sites for slide in slides)
    torch.manual_seed(0)
    module = MaskedAutoencoder(expression.values.shape[1], PRESETS["default"][0]).eval()
    with torch.no_grad():
        # Blocks start as the identity, which would hide what rounding does.
        for parameter in module.encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        module.mask_token += 0.1 * torch.randn(module.mask_token.shape)
    module = module.to(timer.device)
    reference = None
    for variant in ("float32", "bf16"):
        embed = Embedding(module, expression, tile=tile, batch_size=batch_size)
        with torch.autocast(timer.device.type, torch.bfloat16, enabled=variant == "bf16"):
            first = embed(slides[:1])
            timer.wait()
            start = time.perf_counter()
            embed(slides)
            timer.wait()
        seconds = time.perf_counter() - start
        reference = first if reference is None else reference
        records.append(
            {
                "variant": variant,
                "n_sites": n_sites,
                "seconds": seconds,
                "sites_per_second": n_sites / seconds,
                "difference": {
                    mode: float((first[mode] - reference[mode]).norm() / reference[mode].norm()) for mode in REPEATS
                },
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--corpus", type=Path, help="a corpus on disk; simulated without")
    parser.add_argument("--sites", type=int, default=700_000, help="simulated sites")
    parser.add_argument("--genes", type=int, default=4000, help="simulated vocabulary")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--variants", nargs="+", default=["float32 fused", "bf16", "bf16 fused", "bf16 fused compile"])
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.short else "cpu")
    if device.type == "cpu" and not arguments.short:
        parser.error("there is no GPU; --short checks that everything runs, on the CPU")
    sizes = {"window": 16, "n_genes": 512, "side": 100, "product": 8192, "embedding_batch": 64}
    timer = Timer(device, repeats=20, inner=5)
    if arguments.short:
        arguments.sites, arguments.genes, arguments.batch_sizes = 200, 64, [2]
        arguments.variants = ["float32 fused", "bf16"]
        sizes = {"window": 4, "n_genes": 16, "side": 14, "product": 128, "embedding_batch": 4}
        timer = Timer(device, repeats=1, inner=1)
        REPEATS["context"] = 1
    if arguments.corpus is None:
        slides, expression = simulated(arguments.sites, arguments.genes, sizes["side"], device)
    else:
        slides = list(Corpus.open(arguments.corpus).to_target_sum(1e3))
        expression = DenseExpression.from_slides(slides, device=device)
    rates = product_rates(timer, sizes["product"])
    document = {
        "command": "python benchmarks/gpu.py",
        "data": "simulated" if arguments.corpus is None else "corpus",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "n_sites": sum(slide.n_sites for slide in slides),
        "n_genes": expression.values.shape[1],
        "operations_per_second_of_a_large_product": rates,
        "sampling": [],
        "steps": [],
        "precision": {},
        "embedding": [],
    }

    def note(part: str, record: dict) -> None:
        # Written after every measurement: what was measured is kept when time runs out.
        document[part].append(record)
        print(part, json.dumps(record), flush=True)
        if arguments.output is not None and not arguments.short:
            arguments.output.write_text(json.dumps(document, indent=1))

    print(json.dumps(rates), flush=True)
    for preset in ("paper", "default"):
        windows = windows_of(preset, slides, expression, window=sizes["window"], n_genes=sizes["n_genes"])
        document["precision"][preset] = measure_precision(preset, windows)
        print("precision", preset, document["precision"][preset], flush=True)
        for batch_size in arguments.batch_sizes:
            for compiled in (False,) if arguments.short else (False, True):
                seconds = measure_sampling(windows, timer, batch_size, compiled)
                record = {"preset": preset, "batch_size": batch_size, "compiled": compiled, "seconds": seconds}
                note("sampling", record)
            for variant in arguments.variants:
                note("steps", measure_step(preset, variant, windows, timer, batch_size, rates["bfloat16"]))
    for record in measure_embedding(
        slides, expression, timer, tile=2 * sizes["window"], batch_size=sizes["embedding_batch"]
    ):
        note("embedding", record)


if __name__ == "__main__":
    main()
