"""Philox, a counter-based random generator (Salmon et al. 2011): any sample of a batch can be drawn alone, on any device.

A generator with a state has to draw the whole global batch on every rank to give each sample the same numbers for any
number of ranks. Here the numbers of a sample are a function of a key and the sample's index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
ROUNDS = 7  # the fewest that pass BigCrush


def hash_key(*key: int | str) -> int:
    """Return a 64-bit integer that depends on ``key`` alone, such as (seed, step, purpose)."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def philox(
    counter: tuple[Int[Tensor, "*N"], ...], key: int, rounds: int = ROUNDS
) -> tuple[Int[Tensor, "*N"], Int[Tensor, "*N"], Int[Tensor, "*N"], Int[Tensor, "*N"]]:
    """Compute Philox4x32: four random words for each counter of four words.

    Args:
        counter: four int64 tensors with values below 2^32, all of one shape.
        key: 64 bits.
        rounds: number of rounds; 10 is the usual choice with a larger margin.
    """
    a, b, c, d = counter
    key_low, key_high = key & WORD, key >> 32
    for _ in range(rounds):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # modulo 2^64
        a, b, c, d = (
            (second >> 32 & WORD) ^ (b ^ key_low),
            second & WORD,
            (first >> 32 & WORD) ^ (d ^ key_high),
            first & WORD,
        )
        key_low, key_high = (key_low + WEYL[0]) & WORD, (key_high + WEYL[1]) & WORD
    return a, b, c, d


def keyed_normal(
    key: int, samples: Sequence[int], count: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "B {count}"]:
    """Draw standard normal numbers on ``device``; row i depends only on ``key`` and the sample's index ``samples[i]``.

    The random words are the same on all devices. The numbers agree up to rounding: the Box-Muller transform uses each
    device's logarithm, cosine and sine.

    Args:
        key: see :func:`hash_key`.
        samples: consecutive indices, such as a range, of the samples in the global batch.
        count: numbers per sample.
        device: where to draw.
    """
    if torch.device(device).type == "cpu" and len(samples) > 1:  # one sample at a time stays in the cache
        return torch.cat([keyed_normal(key, samples[i : i + 1], count) for i in range(len(samples))])
    block = torch.arange(-(-count // 4), device=device)[None]
    sample = torch.arange(len(samples), device=device)[:, None] + (samples[0] if len(samples) else 0)
    block, sample = torch.broadcast_tensors(block, sample)
    words = philox((block, torch.zeros_like(block), sample, torch.zeros_like(block)), key)
    normals = []
    for radius, angle in (words[:2], words[2:]):
        r = ((radius.float() + 0.5) * 2.0**-32).log().mul(-2).sqrt()
        turn = angle.float() * (2 * math.pi * 2.0**-32)
        normals += [r * turn.cos(), r * turn.sin()]
    return torch.cat(normals, 1)[:, :count]
