"""What benchmarks compute beside looking at the clock."""

import pytest

from benchmarks.meshgan import PARTS, split, train


def test_r1_is_what_d_takes_longer_with_it():
    plain = {"data": 1.0, "G": 4.0, "rasterizer": 0.5, "D": 2.0, "average, logging": 0.1}
    penalized = plain | {"D": 2.5, "R1": 1.0}
    slow = dict.fromkeys(PARTS, 100.0)  # the first steps compile kernels
    parts = split([slow, slow, *[penalized, plain] * 3])
    assert parts == pytest.approx(plain | {"R1": 1.5})
    assert set(parts) == set(PARTS)


def test_each_part_of_a_meshgan_step_is_timed():
    steps = train(size=16, steps=4, batch=2)
    assert ["R1" in step for step in steps] == [True, False] * 2
    assert all(set(step) | {"R1"} == set(PARTS) and min(step.values()) > 0 for step in steps)
