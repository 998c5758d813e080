"""The files of one inverted image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from renderers import Camera, Renderer, VoxelGrid
from trainer.export.samples import Sample
from trainer.export.video import write_video
from trainer.inversion.models import InvertibleGenerator, InvertibleMeshes
from trainer.inversion.optimization import Candidates
from trainer.inversion.targets import Item
from utils.files import write_atomically
from visualization.images import save_png, tile, to_pil

OTHER_VIEWS = (90.0, 180.0)  # degrees of azimuth from the found viewpoint
FILM_SIZE = 192  # pixels per side of each half of a film
TURN_FRAMES = 36  # of the turn at a film's end
HOLD_FRAMES = 12  # between the optimization and the turn


def read_record(folder: Path, item: Item, key: str) -> dict[str, Any] | None:
    """Return the record of an image that was inverted before with the same inputs (``key``), or None."""
    try:
        record = json.loads((folder / f"{item.stem}.json").read_text(encoding="utf-8"))
        return record if record["key"] == key and isinstance(record["latent"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_result(
    folder: Path,
    item: Item,
    model: InvertibleGenerator,
    winner: Candidates,
    error: float,
    trajectory: Candidates,
    *,
    key: str,
    renderer: Renderer,
    film: str | None,
) -> dict[str, Any]:
    """Write ``NAME.png``, ``NAME.glb``, the film, and last ``NAME.json``; return that record.

    The image shows the input, OpenGL's image of the found shape from the found viewpoint, and two other views.

    Args:
        folder: where to write.
        item: the input.
        model: the generator.
        winner: the found latent and viewpoint, ``(1, 1)``.
        error: of OpenGL's image.
        trajectory: from the start of the optimization to them, ``(1, snapshots)``.
        key: of the record, see :func:`read_record`.
        renderer: of the run.
        film: ``gif`` or ``mp4``: the input beside OpenGL's image during the optimization, then a turn of the shape. None for
            no film.
    """
    latent, fov = winner.latent[0], model.views.fov
    sample = Sample(0, model.scene(latent), renderer, fov)
    save_png(folder / f"{item.stem}.png", comparison(item, model, winner), min_width=768)  # first: it marks the others
    sample.write(folder / item.stem, ("glb",))
    if film is not None:
        write_video(folder / f"{item.stem}.{film}", _film(item, model, trajectory))
    record = {
        "key": key,
        "name": item.name,
        "azimuth": float(winner.azimuth[0, 0]) % 360,
        "elevation": float(winner.elevation[0, 0]),
        "error": error,
        "empty": isinstance(sample.scene, VoxelGrid) and not bool(sample.scene.occupancy.any()),
        "latent": latent[0].tolist(),
    }
    text = json.dumps(record) + "\n"
    write_atomically(folder / f"{item.stem}.json", lambda file: file.write_text(text, encoding="utf-8"))
    return record


def comparison(item: Item, model: InvertibleGenerator, winner: Candidates) -> Float[Tensor, "C h w"]:
    """Return the input, the re-rendering and the :data:`OTHER_VIEWS` in a row."""
    return tile(torch.cat([item.image[None], *_views(model, winner)]), columns=2 + len(OTHER_VIEWS))


def _views(model: InvertibleGenerator, winner: Candidates) -> list[Float[Tensor, "1 C S S"]]:
    azimuth, elevation = winner.azimuth.flatten(), winner.elevation.flatten()
    turns = torch.tensor([0.0, *OTHER_VIEWS], device=azimuth.device)
    if isinstance(model, InvertibleMeshes):  # generated heads have no back
        turns = torch.tensor([0.0, *(50.0 - azimuth, -50.0 - azimuth)], device=azimuth.device)
    camera = Camera(azimuth + turns, elevation.expand(len(turns)), model.views.fov)
    return list(model.verify(winner.latent[0], camera).image.cpu().split(1))


def _film(item: Item, model: InvertibleGenerator, trajectory: Candidates) -> Iterator[Image.Image]:
    camera = trajectory.camera(model.views.fov)
    snapshots = model.verify(trajectory.latent[0], camera).image.cpu()
    turns = 360 * torch.arange(TURN_FRAMES, device=camera.device) / TURN_FRAMES
    last = Camera(trajectory.azimuth[0, -1] + turns, trajectory.elevation[0, -1].expand(TURN_FRAMES), model.views.fov)
    turned = model.verify(trajectory.latent[0, -1:], last).image.cpu()
    for image in [*snapshots, *snapshots[-1:].expand(HOLD_FRAMES, -1, -1, -1), *turned]:
        frame = to_pil(torch.cat([item.image, image], 2)).convert("RGB")
        yield frame.resize((2 * FILM_SIZE, FILM_SIZE), Image.Resampling.NEAREST)
