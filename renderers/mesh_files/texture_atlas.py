"""One texture for all materials of a mesh: textures that repeat are unrolled, several are packed into one image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from renderers.mesh_files.parts import MeshError, Part, Texture

MAX_SIDE = 4096  # of the atlas, in pixels; larger textures are reduced by averaging
_NEAR = 1e-4  # a texture coordinate this far outside [0, 1] is rounding
WHITE = Texture(np.full((1, 1, 3), 255, np.uint8), ("clamp", "clamp"))


def unify_texture(parts: list[Part]) -> tuple[list[Part], UInt8[np.ndarray, "H W 3"] | None]:
    """Return the parts with coordinates in [0, 1] of one texture, which is returned as well; None if no part has one.

    Parts without a texture, or without coordinates for it, become white, times their vertex colours.

    Raises:
        MeshError: a texture is repeated too often.
    """
    parts = [part if part.texture is not None and part.uvs is not None else replace(part, texture=None, uvs=None)
             for part in parts]  # fmt: skip
    textures = {id(part.texture): part.texture for part in parts}
    if textures.keys() == {id(None)}:
        return parts, None
    parts = [_wrap(part) if part.texture is not None else replace(part, texture=WHITE) for part in parts]
    groups: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
        groups.setdefault(id(part.texture), []).append(i)
    limits = []
    for members in groups.values():
        used = [uv[parts[i].faces].reshape(-1, 2) for i in members if (uv := parts[i].uvs) is not None]
        points = np.concatenate(used) if used else np.zeros((1, 2))
        limits.append((points.min(0), points.max(0)))
    if len(groups) == 1 and (limits[0][0] >= -_NEAR).all() and (limits[0][1] <= 1 + _NEAR).all():
        texture = parts[0].texture
        assert texture is not None
        clipped = [replace(part, uvs=None if part.uvs is None else part.uvs.clip(0, 1)) for part in parts]
        return clipped, _resize(texture.pixels, 1.0, (1.0, 1.0))
    shapes = [parts[members[0]].texture.pixels.shape for members in groups.values()]  # type: ignore[union-attr]
    area = sum(
        (h * (hi - lo)[1] + 4) * (w * (hi - lo)[0] + 4) for (h, w, _), (lo, hi) in zip(shapes, limits, strict=True)
    )
    scale = min(1.0, math.sqrt(0.7 * MAX_SIDE**2 / area))
    tiles, origins = [], []
    for members, (low, high) in zip(groups.values(), limits, strict=True):
        texture = parts[members[0]].texture
        assert texture is not None
        reduced = Texture(_resize(texture.pixels, scale, tuple(high - low)), texture.wrap)
        tile, origin = _unroll(reduced, low, high)
        tiles.append(tile)
        origins.append((origin, reduced.pixels.shape))
    atlas, places = _pack(tiles)
    for members, (origin, (height, width, _)), place in zip(groups.values(), origins, places, strict=True):
        for i in members:
            inside = np.full((len(parts[i].vertices), 2), 0.5) if parts[i].uvs is None else parts[i].uvs
            assert inside is not None
            pixels = inside * (width, height) - origin + place
            parts[i] = replace(parts[i], uvs=pixels / (atlas.shape[1], atlas.shape[0]))
    return parts, atlas


def _wrap(part: Part) -> Part:
    """Move triangles by whole periods of a repeated texture to the first one; vertices that move apart are split."""
    assert part.uvs is not None and part.texture is not None
    low = part.uvs[part.faces].min(1) + _NEAR
    shift = np.zeros(low.shape, np.int64)
    for axis, mode in enumerate(part.texture.wrap):
        period = {"repeat": 1, "mirror": 2}.get(mode)
        if period:
            shift[:, axis] = period * np.floor(low[:, axis] / period)
    if not shift.any():
        return part
    keys = np.concatenate([part.faces.reshape(-1, 1), np.repeat(shift, 3, 0)], 1)
    unique, faces = np.unique(keys, axis=0, return_inverse=True)
    old = unique[:, 0]
    return replace(
        part,
        vertices=part.vertices[old],
        faces=faces.reshape(-1, 3),
        uvs=part.uvs[old] - unique[:, 1:],
        colors=None if part.colors is None else part.colors[old],
    )


def _resize(pixels: np.ndarray, scale: float, periods: tuple[float, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """Reduce a texture so that so many periods of it fit ``MAX_SIDE`` pixels along u and v."""
    size = []
    for count, repeats in zip(pixels.shape[1::-1], periods, strict=True):
        if repeats > MAX_SIDE / 2:
            raise MeshError(f"repeats a texture {repeats:,.0f} times over one triangle, more than {MAX_SIDE // 2:,}")
        size.append(max(1, min(round(count * scale), int((MAX_SIDE - 8) / max(repeats, 1e-6)))))
    if tuple(size) == pixels.shape[1::-1]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.BOX))


def _unroll(
    texture: Texture, low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"]
) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, " 2"]]:
    """Return the pixels between two corners of the texture's plane, with a margin, and the number of the first one."""
    height, width, _ = texture.pixels.shape
    first = np.floor(low * (width, height) - 0.5).astype(np.int64) - 1
    last = np.ceil(high * (width, height) + 0.5).astype(np.int64) + 1
    columns, rows = (
        _wrap_indices(np.arange(first[i], last[i] + 1), count, texture.wrap[i])
        for i, count in enumerate((width, height))
    )
    return texture.pixels[rows[:, None], columns], first


def _wrap_indices(indices: np.ndarray, count: int, mode: str) -> np.ndarray:
    if mode == "repeat":
        return indices % count
    if mode == "mirror":
        folded = indices % (2 * count)
        return np.where(folded < count, folded, 2 * count - 1 - folded)
    return indices.clip(0, count - 1)


def _pack(tiles: list[np.ndarray]) -> tuple[UInt8[np.ndarray, "H W 3"], list[tuple[int, int]]]:
    """Arrange tiles on shelves, the tallest first; return the atlas and the left top corner of each tile."""
    order = sorted(range(len(tiles)), key=lambda i: -tiles[i].shape[0])
    width = max(max(tile.shape[1] for tile in tiles), math.ceil(math.sqrt(sum(t.shape[0] * t.shape[1] for t in tiles))))
    places, x, y, shelf = [(0, 0)] * len(tiles), 0, 0, 0
    for i in order:
        if x + tiles[i].shape[1] > width:
            x, y, shelf = 0, y + shelf, 0
        places[i] = (x, y)
        x, shelf = x + tiles[i].shape[1], max(shelf, tiles[i].shape[0])
    atlas = np.zeros((y + shelf, width, 3), np.uint8)
    for tile, (left, top) in zip(tiles, places, strict=True):
        atlas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return atlas, places
