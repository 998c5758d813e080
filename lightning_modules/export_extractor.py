"""Turn a run of ``extractor.yaml`` into FID's extractor: python -m lightning_modules.export_extractor RUN_FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_modules.render_classifier import export_extractor
from metrics.extractors import WEIGHTS

if __name__ == "__main__":
    run = Path(sys.argv[1])
    file = WEIGHTS / "renders_small.pt"
    accuracy = export_extractor(run / "checkpoints" / "last.ckpt", file)
    sys.stdout.write(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB, accuracy {accuracy:.1%} on held-out renders\n")
