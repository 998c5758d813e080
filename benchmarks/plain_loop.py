"""Overhead of the framework: IG-GAN's step in ``fit`` and in a plain PyTorch loop, alternating in one process.

After each step of ``fit`` with everything in the config (callbacks, loggers, checks for NaN and signals), a loop without
Lightning makes the same step with copies of the networks and the same losses, renderer, optimizers, EMA and images. Both
end with the same weights. The plain loop logs nothing.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.training_runs import run_fit
from lightning_modules import IGGANModule
from lightning_modules.base import frozen, seeded_generator
from lightning_modules.losses import discriminator_loss, generator_loss, image_loss, output_matching_loss
from renderers import VoxelGrid

BLOCK = 10  # steps per log entry: log_every_n_steps of configs/trainer/default.yaml
MINUTES = 10  # between two checkpoints, the default of fit


class PlainLoop:
    """IG-GAN without a framework: no logging, checkpoints or checks.

    Args:
        module: module whose networks are copied in their current state.
        images: its real images from its current step on.
    """

    def __init__(self, module: IGGANModule, images: DataLoader) -> None:
        self.seed, self.steps, self.images_seen = module.seed, module.step, module.images_seen
        self.device, self.images = module.device, iter(images)
        self.half_life, self.dom_weight = 1000 * module.ema_half_life_kimg, module.dom_weight
        self.views, self.renderer = module.views, module.renderer
        self.d, self.g = copy.deepcopy(module.discriminator), copy.deepcopy(module.generator)
        self.r, self.average = copy.deepcopy(module.neural_renderer), copy.deepcopy(module.generator_ema)
        factories = zip(module.optimizer_factories.values(), (self.d, self.g, self.r), strict=True)
        self.d_optimizer, self.g_optimizer, self.r_optimizer = (make(net.parameters()) for make, net in factories)
        self.latent_size = module.latent_size

    def step(self) -> None:
        """Update discriminator, generator and proxy, then the EMA."""
        real = next(self.images)[0].to(self.device).float() / 255
        n = len(real)
        z = torch.randn(n, self.latent_size, generator=self.random("latents")).to(self.device)
        t = torch.rand(n, generator=self.random("thresholds")).to(self.device)
        views = self.views.sample(n, self.random("views")).to(self.device)
        grid = VoxelGrid(self.g(z))
        y_opengl = self.renderer(grid.binarize(t), views).image
        r_input = grid.occupancy.detach().requires_grad_()
        y_neural = self.r(VoxelGrid(r_input), views).image

        self.d_optimizer.zero_grad()
        discriminator_loss(*self.d(torch.cat([real, y_opengl])).chunk(2)).backward()
        self.d_optimizer.step()

        with frozen(self.d):
            logits = self.d(y_neural)
            (gradient,) = torch.autograd.grad(generator_loss(logits), r_input, retain_graph=True)
            with torch.no_grad():
                opengl_logits = self.d(y_opengl)
        self.g_optimizer.zero_grad()
        grid.occupancy.backward(gradient)
        self.g_optimizer.step()

        self.r_optimizer.zero_grad()
        loss = image_loss(y_neural, y_opengl) + self.dom_weight * output_matching_loss(logits, opengl_logits)
        loss.backward(inputs=list(self.r.parameters()))
        self.r_optimizer.step()

        self.steps, self.images_seen = self.steps + 1, self.images_seen + n
        weight = 1 - 0.5 ** (n / min(self.half_life, 0.05 * self.images_seen))
        with torch.no_grad():
            for average, current in zip(self.average.parameters(), self.g.parameters(), strict=True):
                average.lerp_(current, weight)

    def random(self, purpose: str) -> torch.Generator:
        return seeded_generator(self.seed, self.steps, purpose)


class Alternate(pl.Callback):
    """Runs a step of the plain loop after each training step and times both.

    Args:
        path: output JSON file for wall and processor seconds of each step of both, and the seconds of a checkpoint.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.times: dict[str, list[tuple[float, float]]] = {"fit": [], "bare": []}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.loop = PlainLoop(module, trainer.datamodule.train_dataloader())
        self._mark = now(module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self._record("fit", module.device)
        self.loop.step()
        self._record("bare", module.device)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        before = now(module.device)
        trainer.save_checkpoint(Path(self.path).with_suffix(".ckpt"))
        checkpoint = now(module.device)[0] - before[0]
        Path(self.path).write_text(json.dumps({**self.times, "checkpoint": checkpoint}))

    def _record(self, loop: str, device: torch.device) -> None:
        before, self._mark = self._mark, now(device)
        self.times[loop].append((self._mark[0] - before[0], self._mark[1] - before[1]))


def now(device: torch.device) -> tuple[float, float]:
    """Return wall and processor seconds after synchronizing the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def share(fit: list[float], bare: list[float]) -> float:
    """Return the share of a step of ``fit`` that the plain loop does not need: median over blocks without the first."""
    starts = range(BLOCK, len(fit) - BLOCK + 1, BLOCK)
    return statistics.median(1 - sum(bare[i : i + BLOCK]) / sum(fit[i : i + BLOCK]) for i in starts)


def run(config: str, steps: int, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows for both loops, their difference, and the cost of checkpoints."""
    times = run_fit("benchmarks.plain_loop.Alternate", steps, overrides, config)
    seconds = {name: [list(x) for x in zip(*times[name], strict=True)] for name in ("fit", "bare")}
    rows = [
        {
            "benchmark": f"{config}, in turns",
            "part": f"a step, {label}",
            "seconds": statistics.median(seconds[name][0][BLOCK:]),
            "processor_s": statistics.median(seconds[name][1][BLOCK:]),
        }
        for name, label in (("fit", "by fit"), ("bare", "by a plain loop"))
    ]
    shares = [share(seconds["fit"][i], seconds["bare"][i]) for i in range(2)]
    rows.append({"benchmark": rows[0]["benchmark"], "part": "Lightning's share", "share": shares[0]})
    rows.append({"benchmark": rows[0]["benchmark"], "part": "its share of the processor's time", "share": shares[1]})
    part, checkpoint = f"a checkpoint in {MINUTES} minutes", times["checkpoint"]
    share_of_time = checkpoint / 60 / MINUTES
    rows.append({"benchmark": rows[0]["benchmark"], "part": part, "seconds": checkpoint, "share": share_of_time})
    return rows
