"""The batch scripts with a fake SLURM: a job that reaches its time limit is requeued and resumes bit-identically."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

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
# Like srun: start the requested number of tasks, forward signals to all of them, return the highest status.
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
    """Return a working directory and the environment of a job in it."""
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
        "PORT": str(find_free_network_port()),
        "PROCESSES": "2",
        # SLURM's variables. Lightning derives the port from the job id.
        "SLURM_JOB_ID": str(random.randrange(10**6, 10**7)),
        "SLURM_JOB_NAME": "unrender",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2",
    }
    return folder, environment


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_and_executable(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.slow
def test_slurm_requeue_resumes_after_time_limit(cluster):
    folder, environment = cluster
    run = folder / "runs" / "small" / f"slurm-{environment['SLURM_JOB_ID']}"
    command = ["bash", str(SCRIPTS / "slurm.sh"), "small.yaml", "--checkpoint_minutes=0.005"]

    job = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 143, job.stderr.read()
    assert job.stderr.read().count("stopped and saved") == 1  # only rank 0 prints
    assert (folder / "scontrol.txt").read_text().split() == ["requeue", environment["SLURM_JOB_ID"]]
    stopped = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["clock"]["step"]
    assert 0 < stopped < 150

    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (folder / "scontrol.txt").read_text().count("requeue") == 1
    assert json.loads((run / "run.json").read_text())["status"] == "finished"

    uninterrupted = folder / "runs" / "uninterrupted"
    torchrun = ["bash", str(SCRIPTS / "torchrun.sh"), "small.yaml", "--run_dir", str(uninterrupted)]
    plain = {k: v for k, v in environment.items() if not k.startswith("SLURM")}
    process = subprocess.run(torchrun, cwd=folder, env=plain, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    expected = weights(uninterrupted)
    for key, value in weights(run).items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.slow
def test_array_job_renders_its_shard(cluster):
    folder, environment = cluster
    environment = environment | {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment["UNRENDER_CACHE"] = str(folder / "shards")
    shutil.rmtree(folder / "shards", ignore_errors=True)
    command = ["bash", str(SCRIPTS / "slurm_prepare.sh"), "small.yaml", "--data.init_args.images=300"]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "training images: 44 rendered, 256 of 300 still missing" in process.stdout
