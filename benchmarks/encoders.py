"""Every image encoder at its published size: built, saved with random weights, loaded strictly, run on one patch.

    python benchmarks/encoders.py             # docs/results/encoders.json; up to 10 GB of memory and 3 GB of disk at a time
    python benchmarks/encoders.py --short     # one layer each, seconds, writes nothing

No published weights are needed: the check is that a file with the published names and shapes is taken, and gives the same
features as the network it came from.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from stimage.modules import IMAGE_ENCODERS, ImageEncoder, ImageEncoderConfig, load_image_encoder
from stimage.modules._image_encoders._load import _builder

PIXELS = torch.randint(256, (1, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def published_layout(config: ImageEncoderConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of the published file."""
    if config.layout != "dinov2":
        return state
    state = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): part for name, part in state.items()}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    # DINOv2 keeps the position of the class token apart from the token.
    state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], dim=1)
    return state


def features_of(encoder: ImageEncoder) -> tuple[torch.Tensor, float]:
    start = time.perf_counter()
    with torch.inference_mode():
        features = encoder.eval()(PIXELS)
    return features, time.perf_counter() - start


def check(config: ImageEncoderConfig) -> dict:
    torch.manual_seed(0)
    if config.layout not in ("timm", "dinov2"):
        config = replace(config, layout="timm")  # the tests compare these names with the libraries that write them
    encoder = ImageEncoder(_builder(config, pretrained=False)(), config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            # Files hold half precision; layer scales that start at 1e-5 would hide what the layers do.
            parameter.copy_((parameter if parameter.ndim > 1 else parameter + 0.1).half())
    expected, _ = features_of(encoder)
    state = {name: tensor.half().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(published_layout(config, state), path)
        megabytes = path.stat().st_size / 1e6
        del encoder, state
        gc.collect()
        start = time.perf_counter()
        encoder = load_image_encoder(config, weights=path)
        seconds = time.perf_counter() - start
    features, seconds_patch = features_of(encoder)
    return {
        "encoder": config.name,
        "architecture": config.architecture,
        "width": features.shape[1],
        "documented_width": config.width,
        "input_size": config.input_size,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "file_megabytes": round(megabytes, 1),
        "seconds_to_load": round(seconds, 2),
        "seconds_per_patch": round(seconds_patch, 3),
        "largest_difference": float((features - expected).abs().max()),
        "largest_feature": round(float(features.abs().max()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(IMAGE_ENCODERS), choices=list(IMAGE_ENCODERS))
    parser.add_argument("--output", type=Path, default=Path("docs/results/encoders.json"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    records = []
    for name in arguments.encoders:
        config = IMAGE_ENCODERS[name]
        if arguments.short and config.arguments:
            one_layer = {"depths": (1, 1, 1, 1)} if config.architecture == "ctranspath" else {"depth": 1}
            config = replace(config, arguments={**config.arguments, **one_layer})
        records.append(check(config))
        gc.collect()
        print(records[-1], flush=True)
        if records[-1]["width"] != config.width or records[-1]["largest_difference"] > 1e-4:
            raise SystemExit(f"{name}: features differ from those of the network that was saved, or in their number.")
    if not arguments.short:
        document = {
            "command": "python benchmarks/encoders.py",
            "threads": torch.get_num_threads(),
            "versions": {package: version(package) for package in ("stimage", "torch", "timm")},
            "encoders": records,
        }
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
