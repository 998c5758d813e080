import numpy as np
import torch

from datamodules.shapes import CorruptedShapes, ProceduralShapes
from datamodules.shapes.corrupted import damage


def test_damage_repeats_and_leaves_a_shape_that_is_still_alike():
    whole = ProceduralShapes("chair", count=12, voxel_size=32)
    damaged = CorruptedShapes(whole, seed=1)
    assert len(damaged) == 12 and damaged.name(0) != whole.name(0)
    overlaps = []
    for i in range(12):
        a, b = whole[i].voxels.occupancy.bool(), damaged[i].voxels.occupancy.bool()
        assert torch.equal(b, damaged[i].voxels.occupancy.bool())
        assert not torch.equal(a, b)
        overlaps.append(float((a & b).sum() / (a | b).sum()))
    assert 0.15 < np.mean(overlaps) < 0.9


def test_fingerprints_tell_damage_and_its_seed():
    whole = ProceduralShapes("chair", count=12, voxel_size=32)
    prints = {whole.cache_key(), CorruptedShapes(whole).cache_key(), CorruptedShapes(whole, 1).cache_key()}
    assert len(prints) == 3


def test_empty_and_full_grids_can_be_damaged():
    rng = np.random.default_rng(0)
    assert not damage(np.zeros((8, 8, 8), bool), rng).any()
    assert damage(np.ones((8, 8, 8), bool), rng).mean() > 0.5
