import numpy as np
import torch

from datamodules.shapes import CorruptedShapes, ProceduralShapes
from datamodules.shapes.corrupted import corrupt


def test_corruption_is_reproducible_and_leaves_a_similar_shape():
    intact = ProceduralShapes("chair", count=12, voxel_size=32)
    corrupted = CorruptedShapes(intact, seed=1)
    assert len(corrupted) == 12 and corrupted.name(0) != intact.name(0)
    overlaps = []
    for i in range(12):
        a, b = intact[i].voxels.occupancy.bool(), corrupted[i].voxels.occupancy.bool()
        assert torch.equal(b, corrupted[i].voxels.occupancy.bool())
        assert not torch.equal(a, b)
        overlaps.append(float((a & b).sum() / (a | b).sum()))
    assert 0.15 < np.mean(overlaps) < 0.9


def test_cache_keys_depend_on_corruption_and_seed():
    intact = ProceduralShapes("chair", count=12, voxel_size=32)
    keys = {intact.cache_key(), CorruptedShapes(intact).cache_key(), CorruptedShapes(intact, 1).cache_key()}
    assert len(keys) == 3


def test_empty_and_full_grids_can_be_corrupted():
    rng = np.random.default_rng(0)
    assert not corrupt(np.zeros((8, 8, 8), bool), rng).any()
    assert corrupt(np.ones((8, 8, 8), bool), rng).mean() > 0.5
