"""``view``: serve a local page with an interactive 3D viewer of a checkpoint's samples."""

import threading

from trainer.cli import arguments
from trainer.runs.loading import load_generator
from trainer.viewer.handlers import RunViewer
from trainer.viewer.server import ViewServer
from utils.signals import Signals, Stopped


def main(argv: list[str]) -> int:
    """Serve the page until a signal; return its exit status, 130 for Ctrl-C.

    Raises:
        InputError: Invalid options, a run that cannot be loaded, or an address that is not available.
    """
    options = arguments.view().parse_args(argv)
    with Signals() as signals:
        try:
            with ViewServer(
                options.host, options.port
            ) as server:  # before loading the run, so that a used port fails fast
                viewer = RunViewer(load_generator(options.run_dir, options.ckpt_path, trust=options.trust))
                server.handlers = viewer.handlers
                threading.Thread(target=server.serve_forever, daemon=True).start()
                try:
                    print(
                        f"{viewer.run.name}, {viewer.run.module.kimg:g} kimg: {server.url}  (Ctrl-C to stop)",
                        flush=True,
                    )
                    server.work()
                finally:
                    server.shutdown()
        except Stopped:
            return signals.status
