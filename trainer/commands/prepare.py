"""``prepare``: the images that a config's data draw and keep, drawn before training, by as many machines as there are."""

from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.runs.data_loading import DataOf
from utils.errors import InputError

OVERRIDES = ("--data.", "--seed_everything=")


def main(argv: list[str]) -> int:
    """Draw what is missing of this shard, and say what is missing of all; returns the exit status.

    Raises:
        InputError: options, a config or data that cannot be used.
    """
    overrides = [word for word in argv if word.startswith(OVERRIDES)]
    options = parse(arguments.prepare(), [word for word in argv if word not in overrides])
    if options is None:
        return 0
    parts = {name: part for name in ("data", "model") if (part := getattr(options, name))}
    data = DataOf(options.config, overrides, parts).load()
    caches = data.caches() if hasattr(data, "caches") else []
    if not caches:
        raise InputError(f"{options.config}: {type(data).__name__} draws no images before training; just start fit")
    index, count = options.shard
    dealt = 0  # files of one cache after the other, so that small caches do not all fall to shard 1
    for cache in caches:
        drawn = cache.prepare(((index - 1 - dealt) % count + 1, count))
        dealt += cache.files
        missing = cache.missing()
        rest = f"{missing:,} of {cache.count:,} still missing" if missing else f"all {cache.count:,} are there"
        print(f"{cache.description}: {drawn:,} drawn, {rest}, in {cache.folder}", flush=True)
    return 0
