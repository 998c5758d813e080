"""Metrics of images split between two processes equal those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metrics.manifolds import MANIFOLD_METRICS

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys
import torch
from metrics import ImageFID, load_extractor, to_bytes

rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if ranks > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
noise = torch.rand(2, 150, 1, 32, 32, generator=torch.Generator().manual_seed(0))
fid = ImageFID(load_extractor("renders_small"), kid_subset=50)
fid.update(to_bytes(noise[0, rank::ranks]), real=True)
fid.update(to_bytes(noise[1, rank::ranks] * 0.7), real=False)
print(json.dumps(fid.compute_all()))
"""


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(tmp_path):
    assert torch.distributed.is_gloo_available()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(rank), str(ranks), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        for ranks in (1, 2)
        for rank in range(ranks)
    ]
    alone, *shared = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    for figures in shared:
        assert figures.keys() == {"fid", "sfid", "kid", "kid_std", *MANIFOLD_METRICS}
        # With fewer images than spatial features, square roots of eigenvalues that are 0 but for rounding add up.
        assert figures.pop("sfid") == pytest.approx(alone["sfid"], rel=1e-6)
        assert figures == pytest.approx({name: alone[name] for name in figures}, rel=1e-9)
