from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# Multipliers of a 32-bit integer hash of low bias (Wellons 2018, "lowbias32"). The second is written as a negative number,
# the same modulo 2^32, so that products stay within 64 signed bits.
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))


class CounterRandom:
    """Random numbers that are a function of a seed, a window number, a stream and a position, on any device.

    A window gets the same numbers whatever else is in its batch, whichever process makes it and on whatever device, and
    those of all windows of a batch are made together.

    Parameters
    ----------
    seed
        Seed, or several.
    windows
        Window numbers (windows), int64.
    """

    def __init__(self, seed: int | list[int], windows: Tensor) -> None:
        keys = np.random.SeedSequence(seed).generate_state(2)
        low, high = windows & _MASK, (windows >> 32) & _MASK
        self._keys = [_mix(_mix(low ^ int(key)) ^ high) for key in keys]

    def integers(self, stream: str, *shape: int) -> Tensor:
        """Uniform integers below 2^32.

        Parameters
        ----------
        stream
            What they are for: streams of other names are independent.
        shape
            Numbers for each window.

        Returns
        -------
        Tensor
            int64 (windows x shape).
        """
        first, second = (
            _mix(key ^ _mix_number(zlib.crc32(stream.encode()))).view(-1, *(1 for _ in shape)) for key in self._keys
        )
        count = torch.arange(int(np.prod(shape, dtype=np.int64)), device=first.device).view(shape)
        return _mix(_mix(count ^ first) ^ second)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Numbers between 0 and 1, float32 (windows x shape); see :meth:`integers`."""
        # The largest integers are rounded up to 2^32.
        return ((self.integers(stream, *shape).to(torch.float32) + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)


def _mix(values: Tensor) -> Tensor:
    values = ((values ^ (values >> 16)) * _MULTIPLIERS[0]) & _MASK
    values = ((values ^ (values >> 15)) * _MULTIPLIERS[1]) & _MASK
    return values ^ (values >> 16)


def _mix_number(value: int) -> int:
    return int(_mix(torch.tensor(value + 1)))
