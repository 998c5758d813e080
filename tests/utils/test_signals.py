"""Workers of data loaders, which leave SIGINT and SIGTERM to their parent."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import TensorDataset

from datamodules.base import RunDataModule
from utils.signals import STATUS, WorkerContext


def test_workers_ignore_signals_from_their_start():
    """Ctrl-C reaches all processes. Workers that died of it would raise an error in their parent instead of its stop."""
    process = WorkerContext().Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    assert not STATUS.keys() & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for number in STATUS:
        os.kill(process.pid, number)
    process.join(1)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_signals_to_the_workers_of_a_data_module_change_no_data():
    module = RunDataModule(batch_size=2, total_kimg=1, num_workers=1, seed=0)
    batches = iter(module.evaluation_loader(TensorDataset(torch.arange(6)), 6))
    received = []
    for _ in range(3):
        for number in STATUS:
            os.kill(multiprocessing.active_children()[0].pid, number)
        received += next(batches)[0].tolist()
    assert received == list(range(6))
