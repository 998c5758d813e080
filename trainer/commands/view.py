"""``view``: a page on this machine that shows and turns what a checkpoint generates."""

from __future__ import annotations

import threading

from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.runs.loading import load_generator
from trainer.viewer.handlers import RunViewer
from trainer.viewer.server import ViewServer
from utils.signals import Signals, Stopped


def main(argv: list[str]) -> int:
    """Serve the page until a signal comes; returns its exit status, 130 for Ctrl-C.

    Raises:
        InputError: options or a run that cannot be used, or an address that cannot be had.
    """
    options = parse(arguments.view(), argv)
    if options is None:
        return 0
    with Signals() as signals:
        try:
            with ViewServer(options.host, options.port) as server:  # first, since a taken port is told at once
                viewer = RunViewer(load_generator(options.run_dir, options.ckpt_path))
                server.answers = viewer.answers
                threading.Thread(target=server.serve_forever, daemon=True).start()
                try:
                    print(f"{viewer.run.name}, {viewer.module.kimg:g} kimg: {server.url}  (Ctrl-C ends it)", flush=True)
                    server.work()
                finally:
                    server.shutdown()
        except Stopped:
            return signals.status
