"""Fuzz all parsers: ``make fuzz``, or ``python -m fuzz --inputs 12000 [--only NAME] [--seed S]`` with tests on the path.

Each parser runs in a forked process with limited memory. Findings are printed with the number of their input, and their
files are saved. The exit status is 1 if there are any.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.trial import TARGETS, inputs, judge, limit_memory, quiet

FORK = multiprocessing.get_context("fork")  # so that libraries are imported only once
MEMORY = 2**31  # bytes, in addition to those of the imported libraries


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--inputs", type=int, default=12_000, help="number of inputs over all parsers (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of a single parser")
    parser.add_argument("--number", type=int, help="number of a single input")
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/fuzz"), help="folder of the findings (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    names = [options.only] if options.only else list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    total, findings = 0, 0
    print(f"{'parser':<28}{'inputs':>8}{'read':>8}{'refused':>9}{'findings':>10}{'seconds':>9}{'added MiB':>11}")
    for name in names:
        count = 1 if options.number is not None else -int(-options.inputs * TARGETS[name].share // shares)
        result = _run(name, count, options)
        total, findings = total + result["inputs"], findings + len(result["findings"])
        figures = (result["inputs"], result["read"], result["refused"], len(result["findings"]))
        print(
            f"{name:<28}{figures[0]:>8}{figures[1]:>8}{figures[2]:>9}{figures[3]:>10}"
            f"{result['seconds']:>9.1f}{result['memory'] / 2**20:>11.0f}",
            flush=True,
        )
        for number, kind, details in result["findings"][:5]:
            print(f"  input {number}: {kind}: {details.strip()[-1500:]}", flush=True)
    print(f"{total:,} inputs, {findings} findings (seed {options.seed})")
    return 1 if findings else 0


def _run(name: str, count: int, options: argparse.Namespace) -> dict:
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_child, args=(name, count, options, sender))
    child.start()
    sender.close()
    number, result = -1, None
    try:
        while result is None:
            message = receiver.recv()
            number, result = (message, None) if isinstance(message, int) else (number, message)
    except EOFError:  # the process died
        pass
    child.join()
    if result is not None:
        return result
    finding = (number, "the process died", f"with status {child.exitcode}")
    return {"inputs": number + 1, "read": 0, "refused": 0, "findings": [finding], "seconds": 0.0, "memory": 0}


def _child(name: str, count: int, options: argparse.Namespace, sender: Connection) -> None:
    quiet()
    target, first = TARGETS[name], options.number or 0
    result: dict = {"inputs": 0, "read": 0, "refused": 0, "findings": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unrender-fuzz-") as folder:
        path = target.prepare(Path(folder))
        content = path.read_bytes()
        assert judge(target, path, content)[0] == "read", judge(target, path, content)
        limit_memory(MEMORY)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number, mutated in enumerate(inputs(content, options.seed, first, count), first):
            sender.send(number)
            verdict, details = judge(target, path, mutated)
            result["inputs"] += 1
            if verdict in ("read", "refused"):
                result[verdict] += 1
                continue
            result["findings"].append((number, verdict, details))
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{name.replace(' ', '_')}-{options.seed}-{number}").write_bytes(mutated)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result |= {"seconds": time.monotonic() - started, "memory": 1024 * (after - before)}
    sender.send(result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
