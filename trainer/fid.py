"""``fid``: the Fréchet and Kernel Inception Distances of any two folders of pictures or caches of renders."""

import argparse
import json
from typing import NoReturn

import torch
from tqdm import tqdm

from datamodules.picture_sets import PictureSet, open_pictures
from metrics import EXTRACTORS, PictureFID, load_extractor
from metrics.kid import check_subset
from renderers.errors import InputError
from trainer.__main__ import COMMANDS

BATCH = 32


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; python -m trainer fid --help lists the options")


def main(argv: list[str]) -> int:
    """Print FID, KID, the extractor and the counts; returns the exit status.

    Raises:
        InputError: options, folders or weights that cannot be used.
    """
    try:
        options = _parser().parse_args(argv)
    except SystemExit:  # help
        return 0
    sets = {"real": open_pictures(options.real), "fake": open_pictures(options.fake)}
    _check(sets, options.kid_subset)
    extractor = load_extractor(options.extractor, options.extractor_weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fid = PictureFID(extractor, kid_subset=options.kid_subset).to(device)
    with tqdm(total=sum(map(len, sets.values())), desc="features", unit="picture", leave=False, disable=None) as bar:
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


def _parser() -> argparse.ArgumentParser:
    help_ = COMMANDS["fid"].help
    parser = _Parser("python -m trainer fid", description=f"{help_[0].upper()}{help_[1:]}.", allow_abbrev=False)
    folder = "folder of png and jpg files, also in folders within, or a cache of renders"
    parser.add_argument("--real", metavar="DIR", required=True, help=f"the reference: {folder}")
    parser.add_argument("--fake", metavar="DIR", required=True, help="what is compared with it")
    parser.add_argument(
        "--extractor", metavar="NAME", default=EXTRACTORS[0], help=f"{', '.join(EXTRACTORS)} (default: %(default)s)"
    )
    parser.add_argument("--extractor_weights", metavar="FILE", help="another file of weights for the extractor")
    parser.add_argument(
        "--kid_subset", metavar="N", type=_count, default=1000, help="pictures a subset, 0 for FID alone (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor a whole number from 2 on")
    return int(text)
