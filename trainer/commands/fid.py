"""``fid``: FID, spatial FID, KID, precision, recall, density and coverage of two directories of images or render caches."""

import json
import sys

import torch

from datamodules.images.image_set import ImageSet, open_images
from metrics import ImageFID, load_extractor
from metrics.kid import check_subset
from trainer.cli import arguments
from utils.errors import InputError
from utils.progress import Progress

BATCH = 32
KID_SUBSET = 1000


def main(argv: list[str]) -> int:
    """Print the metrics, the extractor and the image counts; return the exit status.

    Raises:
        InputError: Invalid options, images or weights that cannot be read, or images that cannot be compared.
    """
    options = arguments.fid().parse_args(argv)
    sets = {kind: open_images(getattr(options, kind), options.on_corrupt) for kind in ("real", "fake")}
    _check(sets, options.kid_subset or 0)
    subset = _kid_subset(sets) if options.kid_subset is None else options.kid_subset
    colored = any(images.shape[0] == 3 for images in sets.values())
    name = options.extractor or ("renders_color" if colored else "renders_small")
    extractor = load_extractor(name, options.extractor_weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fid = ImageFID(extractor, kid_subset=subset).to(device)
    with Progress(sum(map(len, sets.values())), "features", "image") as bar:
        for kind, images in sets.items():
            for batch in images.batches(BATCH):
                if (batch != batch[:, :1]).any():
                    extractor.check_color(f"the images in {images.folder}")
                fid.update(batch.to(device), real=kind == "real")
                bar.update(len(batch))
    figures, counts = fid.compute_all(), fid.counts()
    if options.json:
        more = {"extractor": extractor.label, "checksum": extractor.checksum, **counts}
        print(json.dumps({**figures, **more, "kid_subset": subset, "note": fid.describe(**counts)}))
        return 0
    print(f"FID {figures['fid']:.4f}\nsFID {figures['sfid']:.4f}")
    if fid.kid is not None:
        print(f"KID {figures['kid']:.6f} ± {figures['kid_std']:.6f}")
    if "precision" in figures:
        print(f"precision {figures['precision']:.4f}, recall {figures['recall']:.4f}")
        print(f"density {figures['density']:.4f}, image coverage {figures['image_coverage']:.4f}")
    print(fid.describe(**counts))
    return 0


def _kid_subset(sets: dict[str, ImageSet]) -> int:
    """Return the default number of images per KID subset, and print it if the sets are too small for the usual one."""
    count = min(map(len, sets.values()))
    subset = min(KID_SUBSET, count // 2)
    if subset < 2:  # KID needs two images
        subset = 0
    if subset < KID_SUBSET:
        effect = f"KID samples subsets of {subset:,} instead of {KID_SUBSET:,}" if subset else "KID is not measured"
        print(f"{effect}: there are {count:,} images; --kid_subset sets it", file=sys.stderr)
    return subset


def _check(sets: dict[str, ImageSet], kid_subset: int) -> None:
    real, fake = sets["real"], sets["fake"]
    if real.shape[1:] != fake.shape[1:]:
        (a, b), (c, d) = real.shape[1:], fake.shape[1:]
        raise InputError(
            f"the images in {real.folder} are {b}×{a} and those in {fake.folder} {d}×{c}; make them the same size (FID is "
            "sensitive to resizing)"
        )
    for images in (real, fake):
        if len(images) < 2:
            raise InputError(f"FID needs at least two images per set, and {images.folder} contains {len(images)}")
    if kid_subset:
        check_subset(kid_subset, len(real), "real")
        check_subset(kid_subset, len(fake), "generated")
