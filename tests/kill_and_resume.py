"""Kill trainings at random moments, resume them, and compare them with uninterrupted runs.

``make chaos``, or ``python tests/kill_and_resume.py --kills 3 --terms 1 --modules iggan``. Each module is trained once
without interruption and once with its share of SIGKILLs: while it renders its images, trains, evaluates, writes a
checkpoint, or at any moment after the start of the process. In the end the same command must give the same weights and
optimizer states, bit for bit, and the same rows of metrics, each once. Then the same with SIGTERM, which must end with
status 143. Runs on the CPU.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "--model.init_args.neural_renderer.init_args.network.init_args"
EVALUATED = ["--data.reference_images=40", "--trainer.callbacks=[{class_path: callbacks.EvaluationLog}]"]
TINY = [
    "--data.batch_size=4",
    "--data.total_kimg=0.048",
    "--trainer.val_check_interval=3",
    "--trainer.log_every_n_steps=1",
]
TINY += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0"]
CHAIRS = ["--data.shapes.init_args.count=150", "--data.reference_shapes.init_args.count=40", *EVALUATED]
PROXY = [f"{NETWORK}.width=16", f"{NETWORK}.channels_3d=[2,2,2]"]
GAN = ["--model.generator.init_args.width=16", "--model.discriminator.init_args.width=8"]
MODULES = {
    "iggan": ["--config=chairs_procedural.yaml", *GAN, *PROXY, "--model.proxy_checkpoint=null", *CHAIRS],
    "iggan_deferred": ["--config=demo.yaml", *GAN, *CHAIRS],
    "visual_hull": ["--config=demo.yaml", "--model", "model/visual_hull_32.yaml", *GAN, *CHAIRS],
    "dcgan": ["--config=demo.yaml", "--model", "model/dcgan_32.yaml", *GAN, *CHAIRS],
    "meshgan": [
        *("--config=heads.yaml", "--data.images=300", *EVALUATED),
        *("--model.generator.init_args.channel_max=8", "--model.discriminator.init_args.channel_max=8"),
        "--model.growth=[{resolution: 16, fade_kimg: 0, stable_kimg: 0.012}, {resolution: 32, fade_kimg: 0.012}]",
    ],
    "proxy": ["--config=proxy_tables_32.yaml", *PROXY, "--trainer.callbacks=null", "--data.validation_count=40"],
}
UNCACHED = {"proxy"}  # modules that render during training, not before
PHASES = ("rendering", "training", "evaluating", "checkpointing", "any")
# A signal comes up to so many seconds after one of the first calls of a phase.
MAX_DELAY = {"rendering": 0.3, "training": 0.3, "evaluating": 0.3, "checkpointing": 0.06}
CALLS = {"rendering": 8, "training": 4, "evaluating": 20, "checkpointing": 5}
MAX_MISSES = 9  # runs that end before their signal


def signal_in_phase(phase: str, call: int, delay: float, number: int) -> None:
    """Send this process a signal ``delay`` seconds after the ``call``-th start of a phase."""
    from pytorch_lightning.strategies import SingleDeviceStrategy

    from callbacks.checkpointing import RunCheckpoint
    from datamodules.renders.cache import RenderCache

    owner, name = {
        "rendering": (RenderCache, "_indices"),
        "training": (SingleDeviceStrategy, "training_step"),
        "evaluating": (SingleDeviceStrategy, "validation_step"),
        "checkpointing": (RunCheckpoint, "_save"),
    }[phase]
    calls = 0
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()
        return original(*args, **options)

    setattr(owner, name, wrapped)


class Module:
    """The trainings of one module in a directory, each in a process forked from this one, which has imported everything."""

    def __init__(self, name: str, folder: Path, generator: random.Random) -> None:
        self.name, self.folder, self.random = name, folder, generator
        self.seconds = 0.0

    def start(self, run: str, stop: tuple[str, int, float, int] | None = None) -> int:
        """Start the command of a run, always the same one, with the run's own cache; return the process id.

        Args:
            run: name of the run.
            stop: arguments of :func:`signal_in_phase`, or None.
        """
        arguments = ["fit", *MODULES[self.name], *TINY, "--run_dir", run, "--checkpoint_minutes=0"]
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        status = 1
        try:
            os.chdir(self.folder)
            os.environ["UNRENDER_CACHE"] = str(self.folder / f"cache-{run}")
            log = os.open(f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if stop:
                signal_in_phase(*stop)
            from trainer.__main__ import main as command

            status = command(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def finish(self, run: str) -> None:
        """Run the command to its end."""
        start = time.monotonic()
        status = wait(self.start(run))
        self.seconds = self.seconds or time.monotonic() - start
        if status:
            raise SystemExit(f"{self.name}: the run ended with status {status}\n{self.log(run)}")

    def interrupt(self, run: str, phase: str, number: signal.Signals) -> str | None:
        """Send a run a signal in a phase. Return a description, or None if the run ended before."""
        if phase == "any":
            delay = self.random.uniform(0, self.seconds)
            moment = f"{delay:.1f} s after its start"
            pid = self.start(run)
            time.sleep(delay)
            os.kill(pid, number)  # safe if the process has ended, because it has not been waited for
        else:
            call, delay = self.random.randint(1, CALLS[phase]), self.random.uniform(0, MAX_DELAY[phase])
            moment = f"{1000 * delay:.0f} ms after call {call} of {phase}"
            pid = self.start(run, (phase, call, delay, int(number)))
        status = wait(pid)
        if status == 0:
            return None
        if status != (143 if number == signal.SIGTERM else -number):
            raise SystemExit(f"{self.name}: {number.name} {moment}: unexpected status {status}\n{self.log(run)}")
        return f"{number.name} {moment}, at step {self.step(run)}"

    def log(self, run: str) -> str:
        return (self.folder / f"{run}.log").read_text()[-2000:]

    def step(self, run: str) -> int:
        rows = rows_of(self.folder / run)
        return max((int(float(row["step"])) for row in rows), default=0)


def wait(pid: int) -> int:
    """Wait for a process and return its exit status, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of ``metrics.csv``."""
    path = run / "metrics.csv"
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def differences(first: Path, second: Path, interruptions: int) -> list[str]:
    """Return what differs between two finished runs.

    A SIGKILL right after a checkpoint may lose a row of metrics.csv, so up to ``interruptions`` rows may be missing.
    """
    import torch

    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (first, second)]
    different = [key for key in ("state_dict", "optimizer_states", "clock") if not equal(*(s[key] for s in states))]
    rows = [[json.dumps(row, sort_keys=True) for row in rows_of(run)] for run in (first, second)]
    if len(set(rows[1])) < len(rows[1]) or set(rows[1]) - set(rows[0]) or len(rows[0]) - len(rows[1]) > interruptions:
        different.append("metrics.csv")
    lines = []
    for run in (first, second):
        path = run / "metrics.jsonl"
        content = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        lines.append([{key: value for key, value in line.items() if key != "seconds"} for line in content])
    if lines[0] != lines[1]:
        different.append("metrics.jsonl")
    if (first / "checkpoints/best.ckpt").exists() != (second / "checkpoints/best.ckpt").exists():
        different.append("best.ckpt")
    return different


def equal(first: Any, second: Any) -> bool:
    """Return whether two parts of checkpoints are equal bit for bit."""
    import torch

    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def interrupt_module(name: str, folder: Path, phases: list[str], terms: int, seed: int) -> bool:
    """Run all trainings of one module. Return whether the interrupted runs ended like the uninterrupted one."""
    folder.mkdir(parents=True)
    module = Module(name, folder, random.Random(f"{seed} {name}"))
    module.finish("uninterrupted")
    print(f"{name}: {module.seconds:.0f} s uninterrupted", flush=True)
    # Rendering is the first phase of a run.
    kills = [(phase, signal.SIGKILL) for phase in sorted(phases, key=lambda phase: phase != "rendering")]
    ends = [(phase, signal.SIGTERM) for phase in ["training", "evaluating", "checkpointing"][:terms]]
    passed, number, missed = True, 0, 0
    for signals in filter(None, (kills, ends)):
        number, interruptions, pending = number + 1, 0, list(signals)
        while pending:
            description = module.interrupt(f"run{number}", *pending[0])
            if description:
                print(f"{name}: {description}", flush=True)
                interruptions, missed = interruptions + 1, 0
                pending.pop(0)
            elif (missed := missed + 1) > MAX_MISSES:
                raise SystemExit(f"{name}: no run was interrupted in phase {pending[0][0]}")
            if not description or not pending:  # the run ended before its signal, or there are no more signals
                module.finish(f"run{number}")
                different = differences(folder / "uninterrupted", folder / f"run{number}", interruptions)
                result = f"differs in {', '.join(different)}" if different else "bit-identical"
                print(f"{name}: resumed after {interruptions} signals, {result}", flush=True)
                passed, interruptions, number = passed and not different, 0, number + 1
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs over all modules (%(default)s)")
    parser.add_argument("--terms", type=int, default=1, help="SIGTERMs per module, up to 3 (%(default)s)")
    parser.add_argument("--modules", default=",".join(MODULES), help="(%(default)s)")
    parser.add_argument("--phases", default=",".join(PHASES), help="phases of the SIGKILLs, in turn (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the runs in this directory")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    sys.path.insert(0, str(ROOT))
    import trainer.cli.lightning_cli  # noqa: F401  imported once for all forks

    names, phases, start = options.modules.split(","), options.phases.split(","), time.monotonic()
    shares: dict[str, list[str]] = {name: [] for name in names}
    for i in range(options.kills):  # every module gets every phase in turn
        name = names[i % len(names)]
        phase = phases[(len(shares[name]) + names.index(name)) % len(phases)]
        shares[name].append("training" if phase == "rendering" and name in UNCACHED else phase)
    with tempfile.TemporaryDirectory(prefix="unrender-kill-and-resume-") as temporary:
        folder = options.folder or Path(temporary)
        results = {
            name: interrupt_module(name, folder / name, shares[name], options.terms, options.seed) for name in names
        }
    failed = [name for name, passed in results.items() if not passed]
    minutes, result = (time.monotonic() - start) / 60, f"differ: {', '.join(failed)}" if failed else "all bit-identical"
    print(f"{options.kills} SIGKILLs and {options.terms * len(names)} SIGTERMs in {minutes:.1f} min: {result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
