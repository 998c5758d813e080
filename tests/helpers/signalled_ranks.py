"""Train a GAN on two ranks and send them signals during evaluations, in a separate process.

python signalled_ranks.py FOLDER: write the runs FOLDER/uninterrupted and FOLDER/interrupted, and the exit statuses and
steps of each start of the second run to FOLDER/starts.json.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import kill_and_resume
import torch
from ddp.test_cluster_scripts import CONFIG
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.__main__ import main as command

RANKS = 2
OPTIONS = [
    f"--trainer.devices={RANKS}",
    "--trainer.strategy=ddp",
    "--data.total_kimg=0.028",
    "--trainer.val_check_interval=3",
]
OPTIONS += ["--data.reference_images=40", "--trainer.log_every_n_steps=1"]
SignalBatches = dict[int, tuple[int, signal.Signals]]
# For each start: rank to the number of the evaluation batch (from 1) that gets a signal, and further options. An
# evaluation has ten batches. The last pair is that of Ctrl-C: rank 0 sends the others SIGTERM.
STARTS: list[tuple[SignalBatches, list[str]]] = [
    ({1: (2, signal.SIGTERM)}, ["--trainer.num_sanity_val_steps=-1"]),
    ({1: (2, signal.SIGTERM)}, []),
    ({0: (12, signal.SIGINT), 1: (12, signal.SIGTERM)}, []),
]


def start(folder: Path, run: str, signal_batches: SignalBatches, *options: str) -> list[int]:
    """Run one command on all ranks, in processes forked from this one, and return their exit statuses."""
    os.environ["MASTER_PORT"] = str(find_free_network_port())
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
            signal_in_evaluation(*signal_batches.get(rank, (0, signal.SIGTERM)))
            status = command(
                ["fit", "--config", str(folder / "small.yaml"), "--run_dir", str(folder / run), *OPTIONS, *options]
            )
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return [kill_and_resume.wait(pid) for pid in ranks]


def signal_in_evaluation(batch: int, number: signal.Signals) -> None:
    """Send this process a signal at the start of an evaluation batch; 0 for never."""
    validation_step, batches = DDPStrategy.validation_step, 0

    def wrapped(*args, **options):
        nonlocal batches
        batches += 1
        if batches == batch:
            os.kill(os.getpid(), number)
        return validation_step(*args, **options)

    DDPStrategy.validation_step = wrapped


def main(folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "UNRENDER_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    import trainer.cli.lightning_cli  # noqa: F401  imported once for all forks

    (folder / "small.yaml").write_text(CONFIG)
    assert start(folder, "uninterrupted", {}) == [0, 0]
    starts = []
    last = folder / "interrupted" / "checkpoints" / "last.ckpt"
    for signal_batches, options in [*STARTS, ({}, [])]:
        statuses = start(folder, "interrupted", signal_batches, *options)
        step = torch.load(last, weights_only=True)["clock"]["step"] if last.exists() else None
        starts.append([statuses, step])
    (folder / "starts.json").write_text(json.dumps(starts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
