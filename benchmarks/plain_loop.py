"""What the framework costs: IG-GAN's step by ``fit`` and by a plain PyTorch loop, in turns in one process.

After each step of a training by the project's own command, with all that the config has beside it (callbacks, loggers, the
watch for NaN and signals), a loop that knows nothing of Lightning makes the same step with copies of the same networks, the
same losses, renderer, optimizers, moving average and images. Both end with the same weights. The plain loop logs nothing.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

from lightning_modules import IGGANModule
from lightning_modules.base import frozen, seeded_generator
from lightning_modules.losses import discriminator_loss, generator_loss, image_loss, output_matching_loss
from renderers import VoxelGrid

BLOCK = 10  # steps of which one logs: log_every_n_steps of configs/trainer/default.yaml
MINUTES = 10  # between two checkpoints, as fit has it


class BareLoop:
    """IG-GAN as one writes it without a framework: nothing is logged, kept or watched.

    Args:
        module: whose networks are copied as they are.
        images: its real images, from its step on.
    """

    def __init__(self, module: IGGANModule, images: DataLoader) -> None:
        self.seed, self.done, self.seen = module.seed, module.step, module.images_seen
        self.device, self.images = module.device, iter(images)
        self.half_life, self.dom_weight = 1000 * module.ema_half_life_kimg, module.dom_weight
        self.views, self.renderer = module.views, module.renderer
        networks = (module.discriminator, module.generator, module.neural_renderer, module.generator_ema)
        self.d, self.g, self.r, self.average = (copy.deepcopy(network) for network in networks)
        factories = zip(module.optimizer_factories, (self.d, self.g, self.r), strict=True)
        self.d_optimizer, self.g_optimizer, self.r_optimizer = (make(net.parameters()) for make, net in factories)

    def step(self) -> None:
        """Discriminator, generator and proxy, then the average."""
        real = next(self.images)[0].to(self.device).float() / 255
        n = len(real)
        z = torch.randn(n, self.g.latent_size, generator=self.random("latents")).to(self.device)
        t = torch.rand(n, generator=self.random("thresholds")).to(self.device)
        views = self.views.sample(n, self.random("views")).to(self.device)
        grid = VoxelGrid(self.g(z))
        y_opengl = self.renderer(grid.binarize(t), views).image
        rotated = self.r.rotate(grid, views)
        seen = rotated.detach().requires_grad_()
        y_neural = self.r.network(seen)

        self.d_optimizer.zero_grad()
        discriminator_loss(*self.d(torch.cat([real, y_opengl])).chunk(2)).backward()
        self.d_optimizer.step()

        with frozen(self.d):
            logits = self.d(y_neural)
            (gradient,) = torch.autograd.grad(generator_loss(logits), seen, retain_graph=True)
            with torch.no_grad():
                opengl_logits = self.d(y_opengl)
        self.g_optimizer.zero_grad()
        rotated.backward(gradient)
        self.g_optimizer.step()

        self.r_optimizer.zero_grad()
        loss = image_loss(y_neural, y_opengl) + self.dom_weight * output_matching_loss(logits, opengl_logits)
        loss.backward(inputs=list(self.r.parameters()))
        self.r_optimizer.step()

        self.done, self.seen = self.done + 1, self.seen + n
        weight = 1 - 0.5 ** (n / min(self.half_life, 0.05 * self.seen))
        with torch.no_grad():
            for average, current in zip(self.average.parameters(), self.g.parameters(), strict=True):
                average.lerp_(current, weight)

    def random(self, purpose: str) -> torch.Generator:
        return seeded_generator(self.seed, self.done, purpose)


class InTurns(pl.Callback):
    """Lets a plain loop make a step after each of the training's, and looks at the clock.

    Args:
        path: JSON file for seconds, and seconds of the processor, of each step of both; and of a checkpoint.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.times: dict[str, list[tuple[float, float]]] = {"fit": [], "bare": []}

    def on_train_start(self, trainer: pl.Trainer, module: IGGANModule) -> None:
        self.loop = BareLoop(module, trainer.datamodule.train_dataloader())
        self._mark = now(module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, module: IGGANModule, *_: Any) -> None:
        self._take("fit", module.device)
        self.loop.step()
        self._take("bare", module.device)

    def on_train_end(self, trainer: pl.Trainer, module: IGGANModule) -> None:
        before = now(module.device)
        trainer.save_checkpoint(Path(self.path).with_suffix(".ckpt"))
        checkpoint = now(module.device)[0] - before[0]
        Path(self.path).write_text(json.dumps({**self.times, "checkpoint": checkpoint}))

    def _take(self, whose: str, device: torch.device) -> None:
        before, self._mark = self._mark, now(device)
        self.times[whose].append((self._mark[0] - before[0], self._mark[1] - before[1]))


def now(device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and by the processor, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def in_turns(config: str, steps: int, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Seconds of each step, without evaluations; ``overrides`` is laid over the config."""
    from trainer.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        output, override = Path(folder) / "times.json", Path(folder) / "override.yaml"
        override.write_text(yaml.safe_dump(overrides or {}))
        callback = {"class_path": "benchmarks.plain_loop.InTurns", "init_args": {"path": str(output)}}
        words = ["fit", "--config", config, "--config", str(override), "--run_dir", str(Path(folder) / "run")]
        words += ["--trainer.callbacks+", json.dumps(callback), f"--trainer.limit_train_batches={steps}"]
        words += ["--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
        if status := main(words):
            raise SystemExit(status)
        return json.loads(output.read_text())


def share(fit: list[float], bare: list[float]) -> float:
    """What part of a step by ``fit`` the plain loop does without: the median over blocks, the first left out."""
    starts = range(BLOCK, len(fit) - BLOCK + 1, BLOCK)
    return statistics.median(1 - sum(bare[i : i + BLOCK]) / sum(fit[i : i + BLOCK]) for i in starts)


def run(config: str, steps: int, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for both ways, their difference, and what checkpoints add."""
    times = in_turns(config, steps, overrides)
    ways = {name: [list(x) for x in zip(*times[name], strict=True)] for name in ("fit", "bare")}
    rows = [
        {
            "benchmark": f"{config}, in turns",
            "part": f"a step, {words}",
            "seconds": statistics.median(ways[name][0][BLOCK:]),
            "processor_s": statistics.median(ways[name][1][BLOCK:]),
        }
        for name, words in (("fit", "by fit"), ("bare", "by a plain loop"))
    ]
    shares = [share(ways["fit"][i], ways["bare"][i]) for i in range(2)]
    rows.append({"benchmark": rows[0]["benchmark"], "part": "Lightning's share", "share": shares[0]})
    rows.append({"benchmark": rows[0]["benchmark"], "part": "its share of the processor's time", "share": shares[1]})
    part, seconds = f"a checkpoint in {MINUTES} minutes", times["checkpoint"]
    rows.append({"benchmark": rows[0]["benchmark"], "part": part, "seconds": seconds, "share": seconds / 60 / MINUTES})
    return rows
