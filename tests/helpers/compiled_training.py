"""Train modules with and without compiled networks, in a separate process, because the type checks of the tests prevent
compilation.

python compiled_training.py FOLDER BACKEND PRECISION [NAME ...]: write the losses of each step and the names of the state by
module to FOLDER/losses.json; without names for every module, and for IG-GAN on two ranks as "rank 0" and "rank 1".
Networks and data are those of two_ranks.py.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import pytorch_lightning as pl
import torch
from kill_and_resume import wait
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from small_iggan import trainer
from two_ranks import modules

from callbacks import CompileNetworks

STEPS = 2


class Losses(pl.Callback):
    """Records the values logged after each step."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_):
        self.values.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def train(name: str, folder: Path, backend: str | None, **options) -> dict:
    torch.manual_seed(0)
    module, data = modules()[name]
    losses = Losses()
    callbacks = [CompileNetworks(backend), losses] if backend else [losses]
    run = trainer(folder, callbacks=callbacks, limit_train_batches=STEPS, **options)
    run.fit(module, data)
    run.save_checkpoint(folder / "last.ckpt")  # compares the ranks
    types = {str(v.dtype) for v in run.callback_metrics.values()}
    compiled = [key for key, network in module.named_modules() if network._compiled_call_impl is not None]
    return {"losses": losses.values, "names": list(module.state_dict()), "types": sorted(types), "compiled": compiled}


def both(name: str, folder: Path, backend: str, **options) -> dict[str, dict]:
    return {str(b): train(name, folder, b, **options) for b in (None, backend)}


def two_ranks(folder: Path, backend: str, **options) -> dict[str, dict]:
    """Train IG-GAN on two ranks, in processes forked from this one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "WORLD_SIZE": "2"}
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
    every = list(modules())  # once before training: the first loading of the extractor samples random numbers
    for name in names or every:
        results[name] = both(name, folder, backend, precision=precision)
    (folder / "losses.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
