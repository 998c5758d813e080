"""``export-extractor``: write the weights of a trained classifier of renders as FID's feature extractor."""

from pathlib import Path

from lightning_modules.render_classifier import export_extractor, sees_color
from metrics.extractors import WEIGHTS
from trainer.cli import arguments
from trainer.cli.trust import check_links
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.files import check_replaceable
from utils.torch_io import load_state


def main(argv: list[str]) -> int:
    """Write the weights; return the exit status.

    Raises:
        InputError: The run has no checkpoint of a classifier.
    """
    options = arguments.export_extractor().parse_args(argv)
    check_links(options.run, options.trust)
    checkpoint = RunDirectory(options.run).last_checkpoint
    half = options.file is None
    name = "renders_color" if half and sees_color(checkpoint) else "renders_small"
    file = options.file or WEIGHTS / f"{name}.pt"
    check_replaceable(file, _has_weights, "a file of extractor weights", "FILE")
    accuracies = export_extractor(checkpoint, file, half)
    share = ", ".join(f"{name} {value:.1%}".lstrip() for name, value in accuracies.items())
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, accuracy {share} on held-out renders")
    return 0


def _has_weights(file: Path) -> bool:
    try:
        content = load_state(file)
    except InputError:
        return False
    return isinstance(content, dict) and {"classes", "sizes", "weights"} <= content.keys()
