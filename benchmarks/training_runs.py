"""Training steps of ``fit`` in one or several processes: seconds, memory, and bytes that the ranks all-reduce."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import yaml
from PIL import Image

SKIP = 2  # number of first steps that are not counted
NUMBERS = 1 << 24  # float32 values to measure the speed of an all-reduce: 64 MiB


class StepRecorder(pl.Callback):
    """Times each step and counts the bytes that it all-reduces.

    Args:
        path: output JSON file for ``seconds`` and ``reduced`` (bytes) of each step, ``peak_bytes`` of this process,
            ``gpu_bytes`` on a GPU and, with several ranks, ``bytes_per_second``.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.seconds: list[float] = []
        self.reduced: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._sent, self._all_reduce = 0, dist.all_reduce

        def counted(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            self._sent += tensor.numel() * tensor.element_size()
            return self._all_reduce(tensor, *args, **options)

        dist.all_reduce = counted
        self._mark = self._now(module)

    def on_train_batch_start(self, *_: Any) -> None:
        self._sent = 0

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.reduced.append(self._sent)
        before, self._mark = self._mark, self._now(module)
        self.seconds.append(self._mark - before)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        dist.all_reduce = self._all_reduce
        # Skip this end of a training: it takes minutes at full size on a CPU, and the networks are not used.
        object.__setattr__(module, "measure_batch_norm", lambda: None)
        result: dict[str, Any] = {"seconds": self.seconds, "reduced": self.reduced}
        result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if module.device.type == "cuda":
            result["gpu_bytes"] = torch.cuda.max_memory_allocated(module.device)
        if trainer.world_size > 1:
            result["bytes_per_second"] = self._bus_speed(trainer.world_size, module)
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(result))

    def _bus_speed(self, ranks: int, module: pl.LightningModule) -> float:
        """Return 2 (n-1)/n times the bytes per second of the fastest all-reduce: the bus bandwidth of nccl-tests."""
        numbers, times = torch.zeros(NUMBERS, device=module.device), []
        for _ in range(4):
            dist.barrier()
            before = self._now(module)
            dist.all_reduce(numbers)
            times.append(self._now(module) - before)
        return 2 * (ranks - 1) / ranks * 4 * NUMBERS / min(times)

    @staticmethod
    def _now(module: pl.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


def run_fit(
    callback: str,
    steps: int,
    settings: dict[str, Any],
    config: str | None = None,
    arguments: dict[str, Any] | None = None,
    keep: dict[str, Path] | None = None,
) -> Any:
    """Run ``fit`` in this process without evaluations and return what a callback wrote.

    Args:
        callback: class path of a callback, added to those of the config. Its argument ``path`` is an output JSON file.
        steps: number of training steps.
        settings: settings merged into ``config``, or a whole config.
        config: config of an experiment, or None.
        arguments: further arguments of the callback.
        keep: other files of the callback, by what follows ``path`` in their names, and the file whose name they continue.
    """
    from trainer.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        output, settings_file = Path(folder) / "output.json", Path(folder) / "settings.yaml"
        settings_file.write_text(yaml.safe_dump(settings))
        command = ["fit", *(["--config", config] if config else []), "--config", str(settings_file)]
        command += ["--run_dir", str(Path(folder) / "run"), f"--trainer.limit_train_batches={steps}"]
        command += ["--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
        init_args = {"path": str(output), **(arguments or {})}
        command += ["--trainer.callbacks+", json.dumps({"class_path": callback, "init_args": init_args})]
        if status := main(command):
            raise SystemExit(status)
        for ending, target in (keep or {}).items():
            shutil.copyfile(f"{output}{ending}", f"{target}{ending}")
        return json.loads(output.read_text())


def train(
    config: str, overrides: dict[str, Any], steps: int, ranks: int = 1, accelerator: str = "cpu", threads: int = 1
) -> dict[str, Any]:
    """Train in separate processes without evaluations and callbacks, and return what :class:`StepRecorder` wrote.

    Args:
        config: config of an experiment.
        overrides: settings merged into it.
        steps: number of training steps.
        ranks: number of processes, with gloo on the CPU.
        accelerator: ``cpu`` or ``gpu``.
        threads: threads per process, also of OpenGL on the CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "steps.json"
        recorder = {"class_path": "benchmarks.training_runs.StepRecorder", "init_args": {"path": str(output)}}
        settings = {
            "callbacks": [recorder],
            "limit_train_batches": steps,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "accelerator": accelerator,
            "devices": ranks,
            "strategy": "ddp" if ranks > 1 else "auto",
        }
        override = Path(folder) / "recorded.yaml"
        override.write_text(yaml.safe_dump({**overrides, "trainer": settings}))
        command = [sys.executable, "-m", "trainer", "fit", "--config", config, "--config", str(override)]
        environment = {"OMP_NUM_THREADS": str(threads), "LP_NUM_THREADS": str(threads), "UNRENDER_CACHE": folder}
        process = subprocess.run(
            [*command, "--run_dir", str(Path(folder) / "run")],
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            raise SystemExit(
                f"fit --config {config} on {ranks} ranks failed with status {process.returncode}:\n{process.stdout}"
            )
        return json.loads(output.read_text())


def compare(
    config: str, overrides: dict[str, Any], batch: int, counts: list[int], steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Return a row for each number of ranks, one thread each, at the same global batch. Runs alternate; the lowest median
    counts.
    """
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in counts}
    for _ in range(repeats):
        for n in counts:
            runs[n].append(train(config, overrides, steps, n))
    seconds = {n: min(statistics.median(run["seconds"][SKIP:]) for run in found) for n, found in runs.items()}
    rows = []
    for n in counts:
        row = {"benchmark": f"{config}, ranks", "part": f"{n} x 1 thread", "batch": batch, "seconds": seconds[n]}
        row |= {"images_per_s": batch / seconds[n], "times_one": seconds[counts[0]] / seconds[n]}
        row["peak_GB"] = min(run["peak_bytes"] for run in runs[n]) / 1e9
        if n > 1:
            row["all-reduced_MB"] = statistics.median(runs[n][0]["reduced"]) / 1e6
            row["GB_per_s"] = max(run["bytes_per_second"] for run in runs[n]) / 1e9
        rows.append(row)
    return rows


def photographs(folder: Path, size: int, count: int = 16) -> str:
    """Write images of noise, for a config that reads photographs; return the directory."""
    for i in range(count):
        noise = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(i)).to(torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{i}.png")
    return str(folder)
