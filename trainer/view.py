"""``view``: a page on this machine that shows and turns what a checkpoint generates."""

from __future__ import annotations

import threading

from trainer import parsers
from trainer.command_parser import parse
from trainer.load_run import load_generator
from trainer.stopping import Signals, Stopped
from trainer.viewer.server import ViewServer
from trainer.viewer.shapes import RunViewer


def main(argv: list[str]) -> int:
    """Serve the page until a signal comes; returns its exit status, 130 for Ctrl-C.

    Raises:
        InputError: options or a run that cannot be used, or an address that cannot be had.
    """
    options = parse(parsers.view(), argv)
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
