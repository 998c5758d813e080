"""Check and measure everything that needs a CUDA card: python -m benchmarks gpu [--minutes 8] [--resume].

Writes runs/gpu/report.json and report.md after each step: tests, kernels against their references, speed of renderers and
of training steps with the goal beside each figure, then trainings. ``--minutes`` ends in time for batch systems: a step
starts only if its usual time is left, and a training is stopped and saved. ``--resume`` keeps finished steps and continues.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import MEASUREMENTS
from benchmarks.output import machine
from callbacks.metrics_log import read_metrics
from trainer.runs.child_processes import child_process
from utils.files import write_atomically

ROOT, FOLDER = Path(__file__).parents[1], Path("runs/gpu")
SAVING = 60  # seconds that a training gets to save when the time is up


@dataclass(frozen=True)
class Step:
    """One step of the plan.

    Args:
        name: its key in the report.
        command: arguments of python; ``{output}`` is replaced by a JSON file for its rows.
        minutes: the time that must be left to start it.
        training: whether it is stopped by SIGTERM and resumed by the same command.
    """

    name: str
    command: tuple[str, ...]
    minutes: float
    training: bool = False


def plan(modelnet: str | None = None) -> list[Step]:
    """Return all steps in order.

    Args:
        modelnet: the archive of ModelNet10's voxels at 64³, for another training.
    """
    measured = {name: Step(name, ("-m", "benchmarks.gpu_steps", name, "{output}"), 2) for name in MEASUREMENTS}
    slow = {"fid": 6, **dict.fromkeys((n for n in MEASUREMENTS if n.startswith(("iggan", "meshgan"))), 5)}
    measured |= {name: Step(name, measured[name].command, minutes) for name, minutes in slow.items()}
    tests = Step("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests"), 4)
    steps = [measured.pop("machine"), tests, *measured.values()]
    steps += [train(f"heads_{n}", "heads.yaml", *heads(n)) for n in (64, 128)]
    steps.append(train("chairs_procedural", "chairs.yaml", *chairs("datamodules.shapes.ProceduralShapes", count=2000)))
    if modelnet:
        shapes = chairs("datamodules.shapes.VoxelArchive", path=modelnet)
        steps.append(train("chairs_modelnet", "chairs.yaml", *shapes))
    return steps


def train(name: str, config: str, *options: str) -> Step:
    run = ("--run_dir", str(FOLDER / name))
    return Step(name, ("-m", "trainer", "fit", "--config", config, *run, *options), 3, training=True)


def heads(size: int) -> list[str]:
    """Return options of MeshGAN on procedural heads, grown from 16² with the networks of the paper."""
    phases = [16 << i for i in range(size.bit_length() - 4)]
    growth = [{"resolution": n, "stable_kimg": 100, "fade_kimg": 100 if n > 16 else 0} for n in phases]
    sizes = ("generator.image_size", "discriminator.resolution", "renderer.image_size")
    model = [f"--model.{name}={size}" for name in sizes]
    model += [f"--model.growth={json.dumps(growth)}", "--model.extractor=renders_color"]
    data = [f"--data.image_size={size}", "--data.batch_size=32", "--data.total_kimg=1500"]
    return ["--model", "model/meshgan.yaml", *model, *data]


def chairs(source: str, **arguments: Any) -> list[str]:
    """Return options of IG-GAN at the paper's size on other shapes."""
    shapes = {"category": "chair", **arguments} | ({"voxel_size": 64} if "count" in arguments else {})
    options = []
    for name, split in (("shapes", "train"), ("reference_shapes", "test")):
        options.append(f"--data.{name}={json.dumps({'class_path': source, 'init_args': {**shapes, 'split': split}})}")
    return [*options, "--data.images_per_model=10", "--data.reference_images=2000", "--data.total_kimg=500"]


def run_step(step: Step, seconds: float, folder: Path) -> dict[str, Any]:
    """Run a step for at most ``seconds`` and return its entry of the report: status, rows, seconds and date."""
    output = (folder / f"{step.name}.json").absolute()
    output.unlink(missing_ok=True)
    command = [sys.executable, *(str(output) if part == "{output}" else part for part in step.command)]
    start, stopped = time.monotonic(), False
    with (
        (folder / f"{step.name}.log").open("ab") as log,
        child_process(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            process.wait(max(1.0, seconds - (SAVING if step.training else 0)))
        except subprocess.TimeoutExpired:
            stopped = True
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode == 0:
        status = "finished"
    elif stopped:
        status = "stopped" if step.training else "out of time"
    else:
        status = f"failed with status {process.returncode}"
    entry: dict[str, Any] = {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if output.exists():
        entry["rows"] = json.loads(output.read_text())
    elif step.name == "tests":
        last = (folder / "tests.log").read_text(errors="replace").strip().splitlines()[-1:]
        entry["rows"] = [{"figure": "pytest -m gpu", "value": " ".join(last), "goal": "all pass"}]
    elif step.training:
        last_line = read_metrics(Path(step.command[step.command.index("--run_dir") + 1]))[-1:]
        values = {k: v for line in last_line for k, v in line.items() if isinstance(v, int | float)}
        entry["rows"] = [{"figure": f"last evaluation, {k}", "value": v, "goal": ""} for k, v in values.items()]
    return entry


def describe(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"# GPU report\n\n{report['machine']}\n"]
    for name, entry in report["steps"].items():
        lines.append(f"## {name}\n\n{entry['status']} after {entry['seconds']} s, {entry['date']}\n")
        if rows := entry.get("rows"):
            lines.append("| figure | value | goal |\n|---|---|---|")
            values = ((r, f"{r['value']:.4g}" if isinstance(r["value"], float) else r["value"]) for r in rows)
            lines += [f"| {r['figure']} | {value} | {r['goal']} |" for r, value in values]
            lines.append("")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Run the steps that fit into the time; return the exit status: 1 if a step failed."""
    parser = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this time; default: no limit")
    parser.add_argument("--resume", action="store_true", help="keep finished steps of the last report, and continue")
    parser.add_argument("--modelnet", help="voxel archive of ModelNet10 at 64³, for a training on real chairs")
    given = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("error: torch sees no CUDA device; run this on a machine with one (unrender doctor)", file=sys.stderr)
        return 2
    return run(plan(given.modelnet), 60 * given.minutes, given.resume, FOLDER)


def run(steps: list[Step], seconds: float, resume: bool, folder: Path) -> int:
    """Run steps, and write the report after each."""
    end = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "report.json"
    report = json.loads(file.read_text()) if resume and file.exists() else {"steps": {}}
    report["machine"] = machine()

    def status(step: Step) -> str:
        return report["steps"].get(step.name, {}).get("status", "")

    # A step that used up the time of an earlier slice must not keep the others from running.
    for step in sorted(steps, key=lambda step: status(step) == "out of time"):
        if status(step) == "finished":
            continue
        left = end - time.monotonic()
        if left < 60 * step.minutes:
            print(f"{step.name}: not started, {left / 60:.1f} minutes are left; continue with --resume")
            continue
        print(f"{step.name} ...", flush=True)
        entry = report["steps"][step.name] = run_step(step, left, folder)
        print(f"{step.name}: {entry['status']} after {entry['seconds']} s", flush=True)
        write_atomically(file, lambda path: path.write_text(json.dumps(report, indent=1)))
        write_atomically(folder / "report.md", lambda path: path.write_text(describe(report)))
    print(folder / "report.md")
    return int(any(entry["status"].startswith("failed") for entry in report["steps"].values()))
