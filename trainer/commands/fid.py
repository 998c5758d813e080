"""``fid``: the Fréchet and Kernel Inception Distances of any two folders of pictures or caches of renders."""

import json

import torch

from datamodules.images.image_set import PictureSet, open_pictures
from metrics import PictureFID, load_extractor
from metrics.kid import check_subset
from trainer.cli import arguments
from trainer.cli.command_parser import parse
from utils.errors import InputError
from utils.progress import Progress

BATCH = 32


def main(argv: list[str]) -> int:
    """Print FID, KID, the extractor and the counts; returns the exit status.

    Raises:
        InputError: options, folders or weights that cannot be used.
    """
    options = parse(arguments.fid(), argv)
    if options is None:
        return 0
    sets = {kind: open_pictures(getattr(options, kind), options.on_corrupt) for kind in ("real", "fake")}
    _check(sets, options.kid_subset)
    extractor = load_extractor(options.extractor, options.extractor_weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fid = PictureFID(extractor, kid_subset=options.kid_subset).to(device)
    with Progress(sum(map(len, sets.values())), "features", "picture") as bar:
        for kind, pictures in sets.items():
            for batch in pictures.batches(BATCH):
                fid.update(batch.to(device), real=kind == "real")
                bar.update(len(batch))
    figures, counts = fid.figures(), fid.counts()
    if options.json:
        more = {"extractor": extractor.label, "checksum": extractor.checksum, **counts}
        print(json.dumps({**figures, **more, "kid_subset": options.kid_subset, "note": fid.describe(**counts)}))
        return 0
    print(f"FID {figures['fid']:.4f}")
    if fid.kid is not None:
        print(f"KID {figures['kid']:.6f} ± {figures['kid_std']:.6f}")
    print(fid.describe(**counts))
    return 0


def _check(sets: dict[str, PictureSet], kid_subset: int) -> None:
    real, fake = sets["real"], sets["fake"]
    if real.shape[1:] != fake.shape[1:]:
        (a, b), (c, d) = real.shape[1:], fake.shape[1:]
        raise InputError(
            f"the pictures in {real.folder} are {b}×{a} and those in {fake.folder} {d}×{c}; make them one size, because "
            "resizing is part of what FID sees"
        )
    for pictures in (real, fake):
        if len(pictures) < 2:
            raise InputError(
                f"FID needs at least two pictures of either kind, and {pictures.folder} holds {len(pictures)}"
            )
    if kid_subset:
        check_subset(kid_subset, len(real), "real")
        check_subset(kid_subset, len(fake), "generated")
