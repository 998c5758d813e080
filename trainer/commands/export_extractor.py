"""``export-extractor``: write the weights of a trained classifier of renders as FID's feature extractor."""

from lightning_modules.render_classifier import export_extractor
from metrics.extractors import WEIGHTS
from trainer.cli import arguments
from trainer.runs.run_directory import RunDirectory


def main(argv: list[str]) -> int:
    """Write the weights; return the exit status.

    Raises:
        InputError: The run has no checkpoint of a classifier.
    """
    options = arguments.export_extractor().parse_args(argv)
    file = options.file or WEIGHTS / "renders_small.pt"
    accuracy = export_extractor(RunDirectory(options.run).last_checkpoint, file, half=options.file is None)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, accuracy {accuracy:.1%} on held-out renders")
    return 0
