"""A large run on paper: seconds a step, images a second and memory on n GPUs, from one measured step.

    python -m benchmarks plan --config chairs.yaml [--gpus 1 8 64] [--batch_per_gpu b] [--seconds_per_step S]
        [--gigabytes_per_second B] [--peak_gigabytes P]

S and P are of b images on one GPU, measured; without them, those that ``python -m benchmarks scaling`` measured on this
machine. B is how fast the GPUs all-reduce: the bus bandwidth that nccl-tests' ``all_reduce_perf`` prints for them.

Each GPU keeps b images a step, so batch_size is n b. All of them send the V bytes that the networks need at that batch
around a ring, after the backward passes and not beside them::

    step = S + 2 (n - 1) / n V / B
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.budget import Budget, budget
from renderers import InputError


@dataclass(frozen=True)
class Measured:
    """One step on one GPU (or what was taken for one).

    Args:
        batch: images.
        seconds: it took.
        peak: bytes of memory; None if that is not known.
    """

    batch: int
    seconds: float
    peak: float | None


def ring_seconds(count: int, volume: float, bytes_per_second: float) -> float:
    """Seconds of an all-reduce of ``volume`` bytes over a ring of ``count``: 2 (n - 1) / n V / B."""
    return 2 * (count - 1) / count * volume / bytes_per_second


def rows(found: Budget, step: Measured, counts: list[int], bytes_per_second: float) -> list[dict[str, Any]]:
    """One line for each number of GPUs."""
    lines = []
    for n in counts:
        sending = ring_seconds(n, found.reduced(n * step.batch), bytes_per_second)
        seconds = step.seconds + sending
        line = {"GPUs": n, "batch_size": n * step.batch, "step_s": seconds, "of it all-reduce_s": sending}
        line |= {"images_per_s": n * step.batch / seconds, "ms_per_image": 1e3 * seconds / n / step.batch}
        line |= {"speedup": n * step.seconds / seconds, "state_GB": found.state / 1e9}
        lines.append(line if step.peak is None else line | {"peak_GB": step.peak / 1e9})
    return lines


def measured(config: str, machine: str) -> Measured:
    """The step of a config that ``benchmarks scaling`` measured on this machine.

    Raises:
        InputError: it has not.
    """
    for row in results.read().get("scaling", []):
        if row.get("part") == f"a step of {config}" and row.get("machine") == machine:
            return Measured(row["batch"], row["seconds"], 1e9 * row["peak_GB"])
    raise InputError(
        f"no step of {config} has been measured on this machine; run python -m benchmarks scaling, or give "
        "--seconds_per_step and --batch_per_gpu"
    )


def main(argv: list[str]) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch_per_gpu", type=int, help="images of the measured step")
    parser.add_argument("--seconds_per_step", type=float, help="that it took on one GPU")
    parser.add_argument("--peak_gigabytes", type=float, help="of memory that it took")
    parser.add_argument("--gigabytes_per_second", type=float, required=True, help="bus bandwidth of an all-reduce")
    given = parser.parse_args(argv)
    numbers = [
        *given.gpus,
        given.batch_per_gpu,
        given.seconds_per_step,
        given.gigabytes_per_second,
        given.peak_gigabytes,
    ]
    try:
        if min(x for x in numbers if x is not None) <= 0:
            raise InputError("all numbers must be above 0")
        lines = rows(_budget(given.config), _step(given), given.gpus, 1e9 * given.gigabytes_per_second)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from benchmarks.output import show

    show(lines)
    return 0


def _step(given: argparse.Namespace) -> Measured:
    alone = (given.batch_per_gpu, given.seconds_per_step)
    if alone == (None, None) and given.peak_gigabytes is None:
        from benchmarks.output import machine

        step = measured(given.config, machine())
        print(f"measured on this machine, {machine()}: {step.seconds:.4g} s a step of {step.batch}\n")
        return step
    if None in alone:
        raise InputError("--seconds_per_step and --batch_per_gpu go together: seconds of a step of so many images")
    return Measured(*alone, given.peak_gigabytes and 1e9 * given.peak_gigabytes)


def _budget(config: str) -> Budget:
    from trainer.cli.log_filters import quiet
    from trainer.runs.loading import ExperimentConfig

    with quiet():
        return budget(ExperimentConfig(config, []).load_model())
