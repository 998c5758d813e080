"""Programs that this process starts and that end with it, such as the training of a proxy or of a table's cell."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

TRAINER = ("python", "-m", "trainer")  # in commands that are shown or recorded
RUN_DIR_VARIABLE = "UNRENDER_RUN_DIR"  # passes the run directory from rank 0 to the ranks that it launches


def run_trainer(words: Sequence[str]) -> int:
    """Run ``python -m trainer`` in another process, whose memory is free afterwards; return its exit status."""
    environment = {name: value for name, value in os.environ.items() if name != RUN_DIR_VARIABLE}
    with child_process([sys.executable, "-m", "trainer", *words], env=environment) as child:
        return child.wait()


@contextmanager
def child_process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a program. An exception inside the context, such as a signal's, terminates it and waits for its end.

    So a training saves its progress; ``subprocess.run`` would kill it.

    Args:
        command: The program and its arguments.
        **options: Of ``subprocess.Popen``.
    """
    with subprocess.Popen(command, **options) as child:
        try:
            yield child
        except BaseException:
            child.terminate()
            child.wait()
            raise
