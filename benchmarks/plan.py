"""Estimate a large run: seconds per step, images per second and memory on n GPUs, from one measured step.

    python -m benchmarks plan --config chairs.yaml [--gpus 1 8 64] [--batch_per_gpu b] [--seconds_per_step S]
        [--gigabytes_per_second B] [--peak_gigabytes P] [--nanoseconds_per_number t]

S and P are measured with b images on one GPU; the default is what ``python -m benchmarks scaling`` measured on this
machine. B is the bus bandwidth of an all-reduce, as nccl-tests' ``all_reduce_perf`` prints it.

Each GPU processes b images per step, so batch_size is n b. The V bytes that the networks all-reduce at that batch size go
around a ring of n GPUs, after the backward passes and without overlap. Every rank samples R random numbers per image of
the global batch on the host, in t seconds each, of which S contains those of one GPU::

    step = S + 2 (n - 1) / n V / B + (n - 1) b R t
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.budget import Budget, budget
from renderers import InputError

DRAW_NANOSECONDS = 16.0  # measured for torch.randn


@dataclass(frozen=True)
class StepMeasurement:
    """One training step on one GPU (or CPU).

    Args:
        batch: images per step.
        seconds: duration.
        peak: peak memory in bytes; None if unknown.
    """

    batch: int
    seconds: float
    peak: float | None


def ring_seconds(count: int, volume: float, bytes_per_second: float) -> float:
    """Return the seconds of an all-reduce of ``volume`` bytes over a ring of ``count``: 2 (n - 1) / n V / B."""
    return 2 * (count - 1) / count * volume / bytes_per_second


def rows(
    cost: Budget, step: StepMeasurement, counts: list[int], bytes_per_second: float, draw_seconds: float = 0.0
) -> list[dict[str, Any]]:
    """Return one row for each number of GPUs; ``draw_seconds`` is the time of one random number on the host."""
    lines = []
    for n in counts:
        sending = ring_seconds(n, cost.all_reduced(n * step.batch), bytes_per_second)
        drawing = (n - 1) * step.batch * cost.draws * draw_seconds
        seconds = step.seconds + sending + drawing
        line = {"GPUs": n, "batch_size": n * step.batch, "step_s": seconds, "of it all-reduce_s": sending}
        line |= {"of it draws_s": drawing}
        line |= {"images_per_s": n * step.batch / seconds, "ms_per_image": 1e3 * seconds / n / step.batch}
        line |= {"speedup": n * step.seconds / seconds, "state_GB": cost.state / 1e9}
        lines.append(line if step.peak is None else line | {"peak_GB": step.peak / 1e9})
    return lines


def measured(config: str, machine: str) -> StepMeasurement:
    """Return the step of a config that ``benchmarks scaling`` measured on this machine.

    Raises:
        InputError: there is no such measurement.
    """
    for row in results.read().get("scaling", []):
        if row.get("part") == f"a step of {config}" and row.get("machine") == machine:
            return StepMeasurement(row["batch"], row["seconds"], 1e9 * row["peak_GB"])
    raise InputError(
        f"no step of {config} has been measured on this machine; run python -m benchmarks scaling, or pass "
        "--seconds_per_step and --batch_per_gpu"
    )


def main(argv: list[str]) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch_per_gpu", type=int, help="images per GPU and step")
    parser.add_argument("--seconds_per_step", type=float, help="measured duration of a step on one GPU")
    parser.add_argument("--peak_gigabytes", type=float, help="measured peak memory of a step on one GPU")
    parser.add_argument("--gigabytes_per_second", type=float, required=True, help="bus bandwidth of an all-reduce")
    parser.add_argument(
        "--nanoseconds_per_number",
        type=float,
        default=DRAW_NANOSECONDS,
        help="time of one normal random number on one core of the host (default: that of an AMD EPYC)",
    )
    given = parser.parse_args(argv)
    numbers = [
        *given.gpus,
        given.batch_per_gpu,
        given.seconds_per_step,
        given.gigabytes_per_second,
        given.peak_gigabytes,
        given.nanoseconds_per_number,
    ]
    try:
        if min(x for x in numbers if x is not None) <= 0:
            raise InputError("all numbers must be greater than 0")
        step, bandwidth = _step(given), 1e9 * given.gigabytes_per_second
        lines = rows(_budget(given.config), step, given.gpus, bandwidth, 1e-9 * given.nanoseconds_per_number)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from benchmarks.output import show

    show(lines)
    return 0


def _step(given: argparse.Namespace) -> StepMeasurement:
    alone = (given.batch_per_gpu, given.seconds_per_step)
    if alone == (None, None) and given.peak_gigabytes is None:
        from benchmarks.output import machine

        step = measured(given.config, machine())
        print(f"measured on this machine, {machine()}: {step.seconds:.4g} s a step of {step.batch}\n")
        return step
    if None in alone:
        raise InputError(
            "--seconds_per_step and --batch_per_gpu must be passed together: a step of so many images took so long"
        )
    return StepMeasurement(*alone, given.peak_gigabytes and 1e9 * given.peak_gigabytes)


def _budget(config: str) -> Budget:
    from trainer.cli.log_filters import quiet
    from trainer.runs.loading import ExperimentConfig

    with quiet():
        return budget(ExperimentConfig(config, []).load_model())
