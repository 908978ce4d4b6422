"""Tables of speed and memory, for _tables.py."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sampling() -> str:
    header = [
        "slide",
        "genes",
        "values in a window",
        "dense numpy",
        "the same, single precision",
        "stimage",
        "one reading",
    ]
    body = []
    for slide in read("sampling")["slides"]:
        times = slide["milliseconds"]
        names = ("dense", "dense_single_precision", "kernels", "read_once")
        cells = [slide["slide"], f"{slide['genes']:,}", f"{slide['values_per_window']:,.0f}"]
        body.append([*cells, *(f"{times[name]:.2f} ms ({times[name] / times['kernels']:.1f})" for name in names)])
    return table(header, body)


def training_step() -> str:
    document = read("training_step")
    header = ["preset", "time", "step", "its matrix products alone", "share", "data of a batch", "share"]
    parts = {f"{document['threads']} threads": document, "one thread, of the processor": document["one_thread"]}
    body = [
        [
            step["preset"],
            name,
            f"{1e3 * step['seconds_per_step']:.0f} ms",
            f"{1e3 * step['seconds_of_products_alone']:.0f} ms",
            f"{step['share_of_products']:.0%}",
            f"{1e3 * step['seconds_of_data_per_batch']:.0f} ms",
            f"{step['share_of_data']:.1%}",
        ]
        for name, part in parts.items()
        for step in part["steps"]
    ]
    return table(header, body)


def corpus() -> str:
    found = read("corpus")
    built, measured = found["built"], found["measured"]
    cached, fresh = (measured[f"milliseconds_per_window{suffix}"] for suffix in ("", "_not_cached"))
    body = [
        ["spots, slides", f"{built['spots']:,}, {built['slides']}"],
        ["size", f"{built['gigabytes']:.1f} GB"],
        ["built", f"{built['spots_per_second']:,.0f} spots/s"],
        ["opened, first time", f"{measured['seconds_to_open']:.2f} s"],
        ["opened again", f"{measured['seconds_to_open_cached']:.2f} s"],
    ]
    for name, times in (("cached", cached), ("not cached", fresh)):
        body.append(
            [
                f"window, {name}",
                f"{times['large']['processor']:.1f} ms processor time ({times['large']['passed']:.1f} ms passed); of a corpus "
                f"of 10,000 spots {times['small']['processor']:.1f} ms ({times['small']['passed']:.1f} ms)",
            ]
        )
    body += [
        ["peak memory of the process", f"{measured['peak_mib']:.0f} MiB"],
        [
            "of which its own",
            f"{measured['anonymous_mib']:.0f} MiB; {measured['anonymous_mib_before_opening']:.0f} before opening",
        ],
    ]
    return table([f"{found['genes']:,} genes, {found['values_per_spot']:,.0f} values a spot", ""], body)


def corpus_build() -> str:
    """Corpora from copies of public collections, and what their readers take; peaks without what imports take."""
    found = read("corpus_build")["results"]

    def own(part: dict) -> str:
        return f"{(part['peak_bytes'] - part['imports_bytes']) / 1e6:.0f} MB"

    body = []
    for name in ("STimage-1K4M", "HEST-1k"):
        part, whole = found[name], found[name]["estimate"]
        sizes = f"{part['source_bytes'] / 1e6:.0f} MB, {part['corpus_bytes'] / 1e6:.0f} MB"
        estimate = f"{whole['hours']:.1f} h; {whole['source_gigabytes']:.0f} GB, {whole['corpus_gigabytes']:.1f} GB"
        counted = f"{part['slides']}, {part['spots']:,}"
        body.append([name, counted, f"{part['seconds']:.0f} s", own(part), sizes, estimate])
    header = ["copy of", "slides, spots", "time", "peak memory", "source, corpus", "1,229 slides: time; source, corpus"]
    largest = [
        [name, " × ".join(f"{n:,}" for n in part["shape"]), f"{part['file_bytes'] / 1e6:.1f} MB", own(part)]
        for name, part in found["readers"].items()
    ]
    return table(header, body) + "\n\n" + table(["reader", "observations × genes", "file", "peak memory"], largest)


def embedding() -> str:
    found = read("embedding")
    body = [
        [
            f"{slide['sites']:,}",
            f"{slide['seconds']:.1f} s",
            f"{slide['milliseconds_per_site']:.2f} ms",
            f"{slide['matrix_products_per_1000_sites']:.2f}",
            f"{slide['peak_megabytes']:,} MB",
        ]
        for slide in found["slides"]
    ]
    shipped = found["shipped_checkpoint"]
    body.append([f"{shipped['spots']:,} spots, shipped checkpoint", f"{shipped['seconds']:.1f} s", "", "", ""])
    return table(["sites", "time", "per site", "products per 1,000 sites", "peak memory"], body)


def reconstruction() -> str:
    found = read("reconstruction")
    body = [
        [f"{record['side']}", record["way"], f"{record['seconds']:.2f} s", f"{record['in_matrix_products']:.2f}"]
        for record in found["times"]
    ]
    return table(["side", "way", "time", "matrix products"], body)


def memory() -> str:
    calls = read("memory")["calls"]
    sizes = ("1000", "10000", "100000")
    body = [
        [name, *(f"{call[size]['kilobytes_per_observation']:.2f}" if size in call else "–" for size in sizes)]
        for name, call in calls.items()
    ]
    return table(["kB per observation", *(f"{int(size):,} observations" for size in sizes)], body)


def whole_slide() -> str:
    found = read("whole_slide")
    small, large = found["slides"]
    header = ["step"]
    for slide in (small, large):
        header += [f"{slide['sites']:,} sites", "peak memory"]
    body = []
    for step in large["steps"]:
        cells = [step]
        for slide in (small, large):
            part = slide["steps"][step]
            cells += [f"{part['processor_seconds']:.0f} s", f"{part['peak_megabytes'] / 1e3:.1f} GB"]
        ratio = found["per_site"].get(step)
        body.append([*cells, "–" if ratio is None else f"{ratio['ratio']:.2f}"])
    return table([*header, "cost per site, large over small"], body)


def bare_image() -> str:
    found = read("bare_image")
    width, height = found["pixels"]
    body = [
        ["pixels", f"{width:,} × {height:,}"],
        ["places, genes", f"{found['places']:,}, {found['genes']:,}"],
        ["seconds", f"{found['seconds']:.0f}"],
        ["seconds of cores", f"{found['seconds_of_cores']:.0f}"],
        ["memory of the process before", f"{found['megabytes_before']:,} MB"],
        ["at most", f"{found['megabytes_at_most']:,} MB"],
    ]
    return table(["bare image", ""], body)


def pairs() -> str:
    """An aligner from a corpus on disk and in memory, as slides are added."""
    found = read("pairs")
    body = []
    for n_slides, part in found["copies"].items():
        build = part["build"]
        cells = [f"{n_slides}, {build['spots']:,}", f"{build['bytes'] / 1e6:.0f} MB", f"{build['grown'] / 1e6:.0f} MB"]
        for place in ("disk", "memory"):
            cells += [f"{part[place]['grown'] / 1e6:.0f} MB", f"{part[place]['milliseconds_per_batch']:.1f} ms"]
        body.append(cells)
    header = [
        "slides, spots",
        "features on disk",
        "peak: building",
        "training from disk",
        "a batch",
        "in memory",
        "a batch",
    ]
    return table(header, body)


TABLES = {
    "reconstruction": reconstruction,
    "sampling": sampling,
    "training step": training_step,
    "corpus": corpus,
    "corpus build": corpus_build,
    "embedding": embedding,
    "memory": memory,
    "whole slide": whole_slide,
    "bare image": bare_image,
    "pairs": pairs,
}
