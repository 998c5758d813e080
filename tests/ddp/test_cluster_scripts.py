"""The batch scripts, with a stand-in for SLURM: a job that reaches its time limit goes on as if it had not."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "configs" / "cluster"
CONFIG = """
seed_everything: 0
model:
  class_path: lightning_modules.ImageGANModule
  init_args:
    generator: {class_path: networks.DCGANGenerator, init_args: {image_size: 16, latent_size: 8, width: 16}}
    discriminator: {class_path: networks.DCGANDiscriminator, init_args: {image_size: 16, width: 8}}
data:
  class_path: datamodules.ShapeNetRenderDataModule
  init_args:
    shapes: {class_path: datamodules.shapes.ProceduralShapes, init_args: {category: chair, count: 8, voxel_size: 16}}
    renderer: {class_path: renderers.OpenGLRenderer, init_args: {image_size: 16}}
    views: {azimuth: [0, 360], elevation: [0, 30]}
    images: 8
    reference_images: 8
    batch_size: 4
    total_kimg: 0.6
trainer:
  max_epochs: 1
  num_sanity_val_steps: 0
  accelerator: cpu
  use_distributed_sampler: false
  enable_progress_bar: false
"""
# What srun does: as many tasks as asked for, signals to all of them, the highest status of all.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = int(os.environ["SLURM_NTASKS_PER_NODE"])
known = {{"SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_NODEID": "0"}}
steps = [
    subprocess.Popen(words, env=os.environ | known | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
    for i in range(tasks)
]
signal.signal(signal.SIGTERM, lambda *_: [step.terminate() for step in steps])
sys.exit(max(step.wait() % 256 for step in steps))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A working folder, and a job's environment in it."""
    folder = tmp_path_factory.mktemp("cluster")
    tools = folder / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$*" >> {folder}/scontrol.txt\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (folder / "small.yaml").write_text(CONFIG)
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "UNRENDER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PORT": str(free_port()),
        "PROCESSES": "2",
        # of SLURM; Lightning makes the port out of the job's number
        "SLURM_JOB_ID": str(random.randrange(10**6, 10**7)),
        "SLURM_JOB_NAME": "unrender",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2",
    }
    return folder, environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.slow
def test_a_job_goes_on_after_its_time_limit_as_if_there_were_none(cluster):
    folder, environment = cluster
    run = folder / "runs" / "small" / f"slurm-{environment['SLURM_JOB_ID']}"
    command = ["bash", str(SCRIPTS / "slurm.sh"), "small.yaml", "--checkpoint_minutes=0.005"]

    job = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 143, job.stderr.read()
    assert job.stderr.read().count("stopped and saved") == 1  # of two ranks one speaks
    assert (folder / "scontrol.txt").read_text().split() == ["requeue", environment["SLURM_JOB_ID"]]
    stopped = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["clock"]["step"]
    assert 0 < stopped < 150

    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (folder / "scontrol.txt").read_text().count("requeue") == 1
    assert json.loads((run / "run.json").read_text())["status"] == "finished"

    whole = folder / "runs" / "whole"
    torchrun = ["bash", str(SCRIPTS / "torchrun.sh"), "small.yaml", "--run_dir", str(whole)]
    plain = {k: v for k, v in environment.items() if not k.startswith("SLURM")}
    done = subprocess.run(torchrun, cwd=folder, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = weights(whole)
    for key, value in weights(run).items():
        assert torch.equal(value, expected[key]), key


def test_an_array_job_draws_its_shard(cluster):
    folder, environment = cluster
    environment = environment | {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment["UNRENDER_CACHE"] = str(folder / "shards")
    shutil.rmtree(folder / "shards", ignore_errors=True)
    command = ["bash", str(SCRIPTS / "slurm_prepare.sh"), "small.yaml", "--data.init_args.images=300"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "training images: 44 drawn, 256 of 300 still missing" in done.stdout
