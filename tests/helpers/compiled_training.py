"""Trains modules with their networks compiled and without, as a process of its own: types checked, as in all tests,
nothing would compile.

python compiled.py FOLDER BACKEND PRECISION [NAME ...]: losses of each step and names of the state, by module, as
FOLDER/losses.json; without names, of every module, and of IG-GAN on two ranks as "rank 0" and "rank 1". Networks and data
are those of the ranks' test.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import pytorch_lightning as pl
import torch
from ddp.test_two_ranks import free_port
from kill_and_resume import wait
from small_iggan import trainer
from two_ranks import modules

from callbacks import CompileNetworks

STEPS = 2


class Losses(pl.Callback):
    """What was logged after each step."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_):
        self.values.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def train(name: str, folder: Path, backend: str | None, **options) -> dict:
    torch.manual_seed(0)
    module, data = modules()[name]
    seen = Losses()
    callbacks = [CompileNetworks(backend), seen] if backend else [seen]
    run = trainer(folder, callbacks=callbacks, limit_train_batches=STEPS, **options)
    run.fit(module, data)
    run.save_checkpoint(folder / "last.ckpt")  # which compares the ranks
    types = {str(v.dtype) for v in run.callback_metrics.values()}
    compiled = [key for key, network in module.named_modules() if network._compiled_call_impl is not None]
    return {"losses": seen.values, "names": list(module.state_dict()), "types": sorted(types), "compiled": compiled}


def both(name: str, folder: Path, backend: str, **options) -> dict[str, dict]:
    return {str(b): train(name, folder, b, **options) for b in (None, backend)}


def two_ranks(folder: Path, backend: str, **options) -> dict[str, dict]:
    """IG-GAN on two ranks, in processes forked from this one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    started = []
    for rank in range(2):
        if pid := os.fork():
            started.append(pid)
            continue
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
        results = both("iggan", folder, backend, devices=2, strategy="ddp", **options)
        (folder / f"{rank}.json").write_text(json.dumps(results))
        os._exit(0)
    statuses = [wait(pid) for pid in started]
    assert statuses == [0, 0]
    del os.environ["WORLD_SIZE"]
    return {f"rank {rank}": json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)}


def main(folder: Path, backend: str, precision: str, *names: str) -> None:
    torch.set_num_threads(1)
    results = {} if names else two_ranks(folder, backend, precision=precision)
    every = list(modules())  # made once before: the extractor's first loading draws some numbers
    for name in names or every:
        results[name] = both(name, folder, backend, precision=precision)
    (folder / "losses.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
