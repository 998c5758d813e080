"""``prepare``: render the cached images of a config's data before training, optionally sharded over machines."""

from trainer.cli import arguments
from trainer.cli.argument_types import split_data_options
from trainer.runs.loading import ExperimentConfig
from utils.errors import InputError


def main(argv: list[str]) -> int:
    """Render the missing images of this shard and print how many of all are missing; return the exit status.

    Raises:
        InputError: Invalid options or config, or data that cannot be read.
    """
    overrides, argv = split_data_options(argv)
    options = arguments.prepare().parse_args(argv)
    if options.seed_everything is not None:
        overrides.append(f"--seed_everything={options.seed_everything}")
    parts = {name: part for name in ("data", "model") if (part := getattr(options, name))}
    data = ExperimentConfig(options.config, overrides, parts, trust=options.trust or None).load_data()
    caches = data.caches() if hasattr(data, "caches") else []
    if not caches:
        raise InputError(
            f"{' and '.join(options.config)}: {type(data).__name__} has no cached renders to prepare; run fit directly"
        )
    index, count = options.shard
    offset = 0  # continue the round robin from cache to cache, so that small caches do not all go to shard 1
    for cache in caches:
        rendered = cache.prepare(((index - 1 - offset) % count + 1, count))
        offset += cache.files
        missing = cache.missing()
        total = f"{missing:,} of {cache.count:,} still missing" if missing else f"all {cache.count:,} are complete"
        print(f"{cache.description}: {rendered:,} rendered, {total}, in {cache.folder}", flush=True)
    return 0
