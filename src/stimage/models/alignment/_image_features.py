from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from stimage import _validate
from stimage._files import written_whole
from stimage._paths import user_cache
from stimage._settings import progress
from stimage.data import SlideImage, square_boxes
from stimage.models._devices import is_half_precision, place_of, to_numpy
from stimage.models.checkpoints._weights import tensors_id
from stimage.modules import ImageEncoder, load_image_encoder

N_COLOURS = 6
"""Numbers that describe the colour of a patch."""
_BATCH_SIZE = 32
_GPU_BATCH_SIZE = 256
"""Patches at a time: of a CPU, and of a GPU, where 256 of 224 x 224 pixels are 150 MB."""
_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PatchSpec:
    """Which image patches of a spot and of its niche are used.

    Parameters
    ----------
    spot_widths
        Widths of the squares around a spot, in distances between neighbouring spots.
    niche_widths
        Widths of the squares around a niche, in longer sides of the box of its spots.

    Raises
    ------
    TypeError, ValueError
        If widths are not tuples of positive numbers.

    Examples
    --------
    >>> from stimage.models import PatchSpec
    >>> PatchSpec(spot_widths=(1.0,)).niche_widths
    (1.0, 2.0)
    """

    spot_widths: tuple[float, ...] = (0.5, 1.0)
    niche_widths: tuple[float, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        for name in ("spot_widths", "niche_widths"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple) or not widths:
                raise ValueError(f"`{name}` must be a tuple of at least one width, found {widths!r}.")
            for width in widths:
                _validate.check_range(name, width, 0, np.inf)

    @property
    def n_colours(self) -> tuple[int, int]:
        """Colours that describe a spot, and a niche."""
        return N_COLOURS * len(self.spot_widths), N_COLOURS * len(self.niche_widths)

    def spot_boxes(self, centres: np.ndarray, pitch: float) -> list[np.ndarray]:
        """Boxes (spots x 4) for each width around spots (spots x 2) that are ``pitch`` apart, in the same unit."""
        return [square_boxes(centres, width * pitch) for width in self.spot_widths]

    def niche_boxes(self, boxes: np.ndarray) -> list[np.ndarray]:
        """Squares (spots x 4) for each width around the boxes of niches (spots x 4)."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        return [square_boxes(centres, width * sides) for width in self.niche_widths]


def default_cache() -> Path:
    """Folder for image features: ``stimage/image_features`` in the user's cache."""
    return user_cache() / "image_features"


def named_encoder(name: str, seed: int) -> ImageEncoder:
    """The image encoder of a name; one without published weights starts at random, the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_image_encoder(name)


def encoder_id(encoder: ImageEncoder) -> str:
    """Hash of an encoder: its configuration and its weights, 16 hexadecimal digits."""
    return tensors_id(encoder.state_dict(), repr(encoder.config))


@torch.no_grad()
def patch_features(
    image: SlideImage, boxes: list[np.ndarray], encoder: ImageEncoder, *, cache: Path | None, description: str
) -> np.ndarray:
    """Features of patches from a frozen encoder, and their colours; those of the same spot side by side.

    Encoders are made to ignore how strongly a tissue is stained, which says much of where its nuclei are: colours are told
    apart from them. Features are kept on disk under a hash of image, encoder and boxes, and read from there the next time.

    Parameters
    ----------
    image
        The slide's image.
    boxes
        Boxes (spots x 4) of each kind of patch, in full-resolution pixels.
    encoder
        The encoder.
    cache
        Folder; ``None`` keeps nothing.
    description
        Of the progress bar.

    Returns
    -------
    numpy.ndarray
        Features of all kinds, then colours of all kinds (spots x kinds times (width + 6)), float32.

    Raises
    ------
    ValueError
        If the encoder gives values that are not finite.
    """
    device = place_of(encoder)
    precision = " 16 bits" if is_half_precision(device) else ""  # of which there may be others on the disk
    digest = hashlib.sha256(f"{image.fingerprint} {encoder_id(encoder)} {len(boxes)}{precision}".encode())
    for part in boxes:
        digest.update(np.ascontiguousarray(part, dtype=np.float64).tobytes())
    path = None if cache is None else cache / f"{digest.hexdigest()}.npy"
    stored = None if path is None else _read(path)
    if stored is not None:
        return stored
    encoder = encoder.eval()
    size = encoder.config.input_size
    stacked = np.concatenate(boxes)
    batch_size = _BATCH_SIZE if device.type == "cpu" else _GPU_BATCH_SIZE
    n_batches = -(-len(stacked) // batch_size)
    batches = image.iter_patches(stacked, size, batch_size=batch_size)
    rows, colours = [], []
    for _ in progress(range(n_batches), description):
        pixels, _ = next(batches)
        rows.append(encoded(pixels, encoder))
        colours.append(patch_colours(pixels))
    parts = [part for values in (rows, colours) for part in np.split(np.concatenate(values), len(boxes))]
    features = np.concatenate(parts, axis=1)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{description}: the image encoder gives NaN or infinite features for {len(bad)} of {len(features)} spots (e.g. "
            f"the one at {boxes[0][bad[0]].round().tolist()}): its weights are damaged or its precision is too low. Nothing is "
            "kept."
        )
    if path is not None:
        _write(path, features)
    return features


@torch.no_grad()
def encoded(pixels: np.ndarray, encoder: ImageEncoder) -> np.ndarray:
    """What an encoder in evaluation mode says of patches (n x height x width x 3, ``uint8``), float32."""
    return to_numpy(encoder(torch.as_tensor(pixels, device=place_of(encoder))))


def patch_colours(pixels: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the optical density of each colour.

    Parameters
    ----------
    pixels
        Patches (n x height x width x 3), ``uint8``.

    Returns
    -------
    numpy.ndarray
        Colours (n x 6), float32.
    """
    density = -np.log((pixels.reshape(len(pixels), -1, 3).astype(np.float32) + 1) / 256)
    return np.concatenate([density.mean(axis=1), density.std(axis=1)], axis=1)


def _read(path: Path) -> np.ndarray | None:
    """A stored array; None where there is none or the file is damaged, so that it is made again."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[:-_DIGEST_SIZE]).digest() != content[-_DIGEST_SIZE:]:
        return None
    return np.load(BytesIO(content), allow_pickle=False)


def _write(path: Path, features: np.ndarray) -> None:
    """Keep an array and its checksum; a folder that cannot be written to is no reason to stop."""
    buffer = BytesIO()
    np.save(buffer, features)
    content = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as (draft,):
            draft.write_bytes(content + hashlib.sha256(content).digest())
    except OSError as error:
        warnings.warn(
            f"Image features are not kept: {str(path.parent)!r} cannot be written to ({error}); pass another `cache_dir`.",
            UserWarning,
            stacklevel=2,
        )
