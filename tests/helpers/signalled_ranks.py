"""Trains a GAN on two ranks, which get SIGTERM while they evaluate, until it is done; as a process of its own.

python signalled_ranks.py FOLDER: the runs FOLDER/peace and FOLDER/hit, and what each start of the second came to as
FOLDER/starts.json.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import kill_and_resume
import torch
from ddp.test_cluster_scripts import CONFIG
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.__main__ import main as command

RANKS = 2
WORDS = [
    f"--trainer.devices={RANKS}",
    "--trainer.strategy=ddp",
    "--data.total_kimg=0.028",
    "--trainer.val_check_interval=3",
]
WORDS += ["--data.reference_images=40", "--trainer.log_every_n_steps=1"]
# Of each start, the batch of an evaluation, counted from 1, in which a rank gets the signal; ten make an evaluation.
HITS = [({1: 2}, ["--trainer.num_sanity_val_steps=-1"]), ({1: 2}, []), ({0: 12, 1: 12}, [])]


def start(folder: Path, run: str, hits: dict[int, int], *options: str) -> list[int]:
    """One command on all ranks, each in a process forked from this one, which has all imported; their exit statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    sys.stdout.flush()
    ranks = []
    for rank in range(RANKS):
        if pid := os.fork():
            ranks.append(pid)
            continue
        status = 1
        try:
            os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
            rank_zero_only.rank = rank
            strike(hits.get(rank, 0))
            status = command(
                ["fit", "--config", str(folder / "small.yaml"), "--run_dir", str(folder / run), *WORDS, *options]
            )
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return [kill_and_resume.wait(pid) for pid in ranks]


def strike(batch: int) -> None:
    """Let this process get SIGTERM as it begins a batch of an evaluation; 0 is never."""
    validation_step, begun = DDPStrategy.validation_step, 0

    def hooked(*args, **options):
        nonlocal begun
        begun += 1
        if begun == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return validation_step(*args, **options)

    DDPStrategy.validation_step = hooked


def main(folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "UNRENDER_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    import trainer.cli.lightning_cli  # noqa: F401  once for all

    (folder / "small.yaml").write_text(CONFIG)
    assert start(folder, "peace", {}) == [0, 0]
    starts = []
    last = folder / "hit" / "checkpoints" / "last.ckpt"
    for hits, options in [*HITS, ({}, [])]:
        statuses = start(folder, "hit", hits, *options)
        step = torch.load(last, weights_only=True)["clock"]["step"] if last.exists() else None
        starts.append([statuses, step])
    (folder / "starts.json").write_text(json.dumps(starts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
