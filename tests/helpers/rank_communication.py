"""Communication between two ranks, in a separate process: python rank_communication.py FOLDER RANK RANKS.

Writes what the functions of ``utils.distributed`` and their users returned to FOLDER/<ranks>-<rank>.json.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 2)]

import torch
import torch.distributed as dist

from lightning_modules import ImageGANModule
from metrics import ImageFID, load_extractor
from networks import DCGANDiscriminator, DCGANGenerator, StyleGANDiscriminator
from utils.distributed import check_ranks, max_over_hosts, rank_count, waiting_for_rank_zero

LIMIT = 8  # seconds that collectives may take


def gap(count: int) -> dict[str, float]:
    """Return the metrics of ``discriminator_gap`` of a D with a minibatch deviation over groups of 4."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, count, 3, 16, 16), dtype=torch.uint8)
    discriminator = StyleGANDiscriminator(16, channel_base=64, channel_max=8)
    module = ImageGANModule(
        DCGANGenerator(16, latent_size=4, width=16, channels=3),
        DCGANDiscriminator(16, width=8, channels=3),
        extractor="renders_color",
        discriminator_gap=count,
    )
    module.discriminator = discriminator
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(sample_images=lambda n: images))
    return module._measure_gap()


def batch_norm(rank: int, ranks: int) -> list[float]:
    """Return the EMA's batch-norm statistics, measured on inputs that differ on each rank by as much as rounding."""
    torch.manual_seed(0)
    module = ImageGANModule(DCGANGenerator(16, latent_size=4, width=16), DCGANDiscriminator(16, width=8))
    module._trainer = SimpleNamespace(world_size=ranks)
    sample = module.latents
    module.latents = lambda *key: sample(*key) * (1 + 1e-6 * rank)
    module.measure_batch_norm(batches=1, batch=8)
    check_ranks(module.generator_ema.state_dict())
    return [float(x.double().sum()) for x in module.generator_ema.buffers()]


def main(folder: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        (folder / f"imported-{rank}").touch()
        while len(list(folder.glob("imported-*"))) < ranks:  # imports take longer than the limit on a busy machine
            time.sleep(0.1)
        store = f"file://{folder / 'store'}"
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=LIMIT)
        )
    waited = time.monotonic()
    with waiting_for_rank_zero():
        if rank == 0 and ranks > 1:
            time.sleep(LIMIT + 1)
    waited = time.monotonic() - waited
    fid = ImageFID(load_extractor("renders_small"))
    images = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for real in (True, False):
        fid.update(images[int(real), rank::ranks], real=real)  # one image on each of two ranks
    results = {
        "ranks": rank_count(),
        "waited": waited,
        "max": [max_over_hosts(rank), max_over_hosts(-rank)],
        "fid": fid.compute(),
        "gap": {n: gap(n) for n in (3, 10, 36, 50)},
        "batch_norm": batch_norm(rank, ranks),
    }
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
