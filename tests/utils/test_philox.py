"""The counter-based generator: known answers, the distribution, and independence from the number of ranks."""

import time

import pytest
import torch

from utils.philox import hash_key, keyed_normal, philox


def words(counter: int, key: int, rounds: int) -> list[int]:
    word = torch.full((1,), counter)
    return [int(x) for x in philox((word, word, word, word), key, rounds)]


def test_known_answers():
    """Test vectors of the Random123 library."""
    assert words(0, 0, 7) == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]
    assert words(0, 0, 10) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(0xFFFFFFFF, 2**64 - 1, 10) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_distribution():
    x = keyed_normal(hash_key(0, "test"), range(16), 100_003)
    assert x.dtype == torch.float32 and x.isfinite().all()
    moments = [x.double().pow(k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.015)
    correlation = torch.corrcoef(x) - torch.eye(16)
    assert correlation.abs().max() < 0.015
    assert abs(torch.corrcoef(torch.stack([x[0, 1:], x[0, :-1]]))[0, 1]) < 0.015


def test_a_sample_depends_on_key_and_index_alone():
    key = hash_key(3, 5, "noise")
    alone = keyed_normal(key, range(6), 10)
    assert torch.equal(alone, torch.cat([keyed_normal(key, range(3), 10), keyed_normal(key, range(3, 6), 10)]))
    assert torch.equal(alone[4:5], keyed_normal(key, [4], 10))
    assert not torch.isclose(alone, keyed_normal(hash_key(3, 6, "noise"), range(6), 10)).any()
    assert keyed_normal(key, range(0), 10).shape == (0, 10)


def test_cost_of_a_rank_does_not_grow_with_the_number_of_ranks():
    def seconds(ranks: int) -> float:
        samples = range(4 * (ranks - 1), 4 * ranks)  # of the last rank
        times = []
        for _ in range(5):
            start = time.perf_counter()
            keyed_normal(hash_key(0, ranks), samples, 20_000)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(64) < 3 * seconds(1)
