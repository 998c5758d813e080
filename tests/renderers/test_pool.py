"""Pictures from other processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from solids import ball_mesh, blob, grids

from renderers import Camera, OpenGLRenderer, TriangleMesh
from renderers.pool import RenderPool


@pytest.fixture(scope="module")
def pool():
    with RenderPool(OpenGLRenderer(32), workers=2) as made:
        yield made


def test_the_same_pictures_in_order(pool):
    camera = Camera.orbit([10.0, 200.0], [5.0, 40.0])
    scenes = [grids(blob(32, i), blob(32, i + 1)) for i in range(4)] + [ball_mesh(2)]
    futures = [pool.submit(scene, camera) for scene in scenes]
    for scene, future in zip(scenes, futures, strict=True):
        here, there = OpenGLRenderer(32)(scene, camera), future.result(timeout=120)
        assert torch.equal(here.image, there.image)
        assert torch.equal(here.depth, there.depth)


def test_background(pool):
    scene, camera, background = grids(blob(32)), Camera.orbit(0.0, 0.0), torch.rand(1, 1, 32, 32)
    there = pool.submit(scene, camera, background).result(timeout=120)
    assert torch.equal(there.image, OpenGLRenderer(32)(scene, camera, background).image)


def test_errors_come_back_and_the_pool_lives_on(pool):
    bad = TriangleMesh(torch.full((1, 3, 3), float("nan")), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="finite"):
        pool.submit(bad, Camera.orbit(0.0, 0.0)).result(timeout=120)
    with pytest.raises(Exception, match=r"draws VoxelGrid or TriangleMesh|scene"):
        pool.submit(torch.zeros(1), Camera.orbit(0.0, 0.0))
    assert pool.submit(grids(blob(16)), Camera.orbit(0.0, 0.0)).result(timeout=120).alpha.sum() > 0


def test_a_worker_that_dies_is_told():
    with RenderPool(OpenGLRenderer(16)) as pool:
        pool.submit(grids(blob(16)), Camera.orbit(0.0, 0.0)).result(timeout=120)
        (worker,) = pool._executor._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            for _ in range(100):
                pool.submit(grids(blob(16)), Camera.orbit(0.0, 0.0)).result(timeout=120)
    assert not _alive(worker)


def test_needs_a_worker():
    with pytest.raises(ValueError, match="at least one worker"):
        RenderPool(OpenGLRenderer(16), 0)


SCRIPT = """
import signal, sys, time, torch
from renderers import *
from renderers.pool import RenderPool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    with RenderPool(OpenGLRenderer(16), workers=2) as pool:
        scene, camera = VoxelGrid(torch.ones(1, 1, 8, 8, 8)), Camera.orbit(0.0, 0.0)
        [f.result() for f in [pool.submit(scene, camera) for _ in range(4)]]
        print(*pool._executor._processes, flush=True)
        if sys.argv[1] == "raise":
            raise KeyError("mine")
        time.sleep(60)
"""


@pytest.mark.parametrize("how", ["raise", "interrupt", "kill"])
def test_no_worker_outlives_its_parent(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen(
        [sys.executable, script, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    workers = [int(x) for x in parent.stdout.readline().split()]
    assert len(workers) >= 1
    if how == "interrupt":
        parent.send_signal(signal.SIGINT)
    if how == "kill":
        parent.kill()
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode != 0
    if how == "raise":
        assert "KeyError" in errors
    end = time.time() + 20
    while any(_alive(w) for w in workers) and time.time() < end:
        time.sleep(0.1)
    assert not any(_alive(w) for w in workers)


def _alive(pid):
    """Whether the process runs; a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
