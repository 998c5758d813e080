"""Turn a classifier's run into FID's extractor: python -m trainer.commands.export_extractor RUN_FOLDER [FILE].

Without FILE the run is one of ``extractor.yaml`` and its weights become those of ``renders_small``, in half precision, as
they ship with the project. With FILE they are written there, for ``extractor_weights`` or ``--extractor_weights``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_modules.render_classifier import export_extractor
from metrics.extractors import WEIGHTS
from renderers import InputError


def main(argv: list[str]) -> int:
    """Export; returns the exit status."""
    if len(argv) not in (1, 2):
        sys.stderr.write("usage: python -m trainer.commands.export_extractor RUN_FOLDER [FILE]\n")
        return 2
    file = Path(argv[1]) if len(argv) == 2 else WEIGHTS / "renders_small.pt"
    try:
        accuracy = export_extractor(Path(argv[0]) / "checkpoints" / "last.ckpt", file, half=len(argv) == 1)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{file}: {file.stat().st_size / 1e6:.2f} MB, accuracy {accuracy:.1%} on held-out renders\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
