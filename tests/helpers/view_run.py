"""Start ``view`` in a subprocess, on small untrained runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import small_iggan
import torch
import yaml
from pytorch_lightning import LightningModule

from lightning_modules import MeshGANModule
from networks import MeshGenerator, StyleGANDiscriminator
from renderers import SoftRasterizer, ViewDistribution

MESHGAN = {  # config of meshgan()
    "class_path": "lightning_modules.MeshGANModule",
    "init_args": {
        "generator": {
            "class_path": "networks.MeshGenerator",
            "init_args": {
                "image_size": 8,
                "latent_size": 4,
                "style_size": 4,
                "mapping_layers": 1,
                "channel_base": 16,
                "channel_max": 4,
            },
        },
        "discriminator": {
            "class_path": "networks.StyleGANDiscriminator",
            "init_args": {"resolution": 8, "channel_base": 16, "channel_max": 4},
        },
        "renderer": {"class_path": "renderers.SoftRasterizer", "init_args": {"image_size": 8}},
        "views": {
            "class_path": "renderers.ViewDistribution",
            "init_args": {"azimuth": [-45, 45], "elevation": [-15, 15], "fov": 10},
        },
    },
}


def meshgan() -> MeshGANModule:
    torch.manual_seed(0)
    small = {"channel_base": 16, "channel_max": 4}
    views = ViewDistribution((-45, 45), (-15, 15), fov=10)
    generator = MeshGenerator(8, latent_size=4, style_size=4, mapping_layers=1, **small)
    return MeshGANModule(generator, StyleGANDiscriminator(8, **small), SoftRasterizer(8), views)


def write_run(folder: Path, module: LightningModule, model: dict) -> Path:
    """Write a run directory with a checkpoint of the untrained module."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3, "model": model}))
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    trainer = small_iggan.trainer(folder)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return folder


@contextmanager
def viewing(run: Path, environment: dict[str, str], *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start ``view``; yield the URL of the page and the process."""
    command = [sys.executable, "-m", "trainer", "view", "--run_dir", str(run), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=run, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert "http://" in line, process.stderr.read()
            yield next(word for word in line.split() if word.startswith("http://")).rstrip("/"), process
        finally:
            if process.poll() is None:
                process.terminate()
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill()
