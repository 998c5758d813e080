"""The CUDA backend of the volume renderers, float32: what :mod:`renderers.volume.numba_backend` does, a lane a pixel.

The backward pass marches to and fro: to, it notes how much light reaches each sample, in a scratch that does not grow with
the batch; fro, it hands out gradients. With ``TRITON_INTERPRET=1`` in the environment Triton runs it on the CPU, slowly,
which is how it is tested without a GPU.
"""

# ruff: noqa: ANN001, ANN202 (Triton types the kernels itself)

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.volume.reference import Rays, pad

BLOCK = 128  # pixels of a program
PROGRAMS = (
    1056  # at most, of the backward pass: 8 for each multiprocessor of the largest devices; they share the scratch
)


def march(
    occupancy: Float[Tensor, "B 1 D D D"],
    color: Float[Tensor, "B C D D D"] | None,
    rotation: Float[Tensor, "B 3 3"],
    rays: Rays,
    law: str,
    density: float,
) -> tuple[Float[Tensor, "B 1 P P"], Float[Tensor, "B K P P"]]:
    """As :func:`renderers.volume.reference.march`."""
    padded, around = pad(occupancy, color)
    alpha, image = _March.apply(padded, around, rotation, rays, law == "visual_hull", density)
    return alpha, alpha if color is None else image


class _March(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, volume: Tensor, color: Tensor | None, rotation: Tensor, rays: Rays, hull: bool, density: float
    ) -> tuple[Tensor, Tensor]:
        batch, size = len(volume), rays.image_size
        volume, rotation = volume.contiguous(), rotation.contiguous()
        color = volume.new_empty(batch, 1, 1, 1, 0) if color is None else color.contiguous()
        channels = color.shape[-1]
        alpha = volume.new_empty(batch, 1, size, size)
        image = volume.new_empty(batch, channels, size, size)
        ctx.numbers = (volume.shape[-1] - 2, size, rays.samples, rays.half_extent, rays.distance, density, channels)
        ctx.constants = {
            "PERSPECTIVE": rays.perspective,
            "HULL": hull,
            "COLORED": channels > 0,
            "CHANNELS": triton.next_power_of_2(max(channels, 1)),
            "BLOCK": BLOCK,
        }
        ctx.save_for_backward(volume, color, rotation)
        tiles = triton.cdiv(size * size, BLOCK) * batch
        _forward[(tiles,)](volume, color, rotation, *ctx.numbers, alpha, image, **ctx.constants)
        return alpha, image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_alpha: Tensor, grad_image: Tensor) -> tuple[Tensor | None, ...]:
        volume, color, rotation = ctx.saved_tensors
        grads = tuple(torch.zeros_like(x) for x in (volume, color, rotation))
        size, samples = ctx.numbers[1:3]
        tiles = triton.cdiv(size * size, BLOCK) * len(volume)
        programs = min(tiles, PROGRAMS)
        scratch = volume.new_empty(1 if ctx.constants["HULL"] else programs * samples * BLOCK)
        _backward[(programs,)](
            volume,
            color,
            rotation,
            *ctx.numbers,
            grad_alpha.contiguous(),
            grad_image.contiguous(),
            *grads,
            scratch,
            tiles,
            programs,
            TURNED=ctx.needs_input_grad[2],
            **ctx.constants,
        )
        wanted = zip(grads, ctx.needs_input_grad, strict=False)
        return (*(g if w else None for g, w in wanted), None, None, None)


@triton.jit
@no_type_check
def _axis(rotation, b, j, x0, y0, x1, y1, d):
    """Coordinate j of the ray in the padded grid: ``start + a step``."""
    r0 = tl.load(rotation + b * 9 + j)
    r1 = tl.load(rotation + b * 9 + 3 + j)
    r2 = tl.load(rotation + b * 9 + 6 + j)
    return d * (r0 * x0 + r1 * y0) + 0.5 * d + 0.5, d * (r0 * x1 + r1 * y1 - r2)


@triton.jit
@no_type_check
def _between(start, step, near, far, d):
    """Where a ray is inside of the padded grid along one axis, and along those before."""
    flat = tl.abs(step) < 1e-7
    safe = tl.where(flat, 1.0, step)
    a, b = -start / safe, (d + 1 - start) / safe
    out = flat & ((start <= 0) | (start >= d + 1))
    near = tl.where(flat, near, tl.maximum(near, tl.minimum(a, b)))
    far = tl.where(flat, far, tl.minimum(far, tl.maximum(a, b)))
    return near, tl.where(out, -2.0, far)


@triton.jit
@no_type_check
def _rays(rotation, b, pixel, d, size, samples, half_extent, distance, PERSPECTIVE: tl.constexpr):
    """Of each lane: start and step along x, y and z, the first and the last but one sample, and the ray in the camera."""
    x = (2 * (pixel % size) + 1) / size - 1
    y = 1 - (2 * (pixel // size) + 1) / size
    if PERSPECTIVE:
        x1, y1 = x * half_extent, y * half_extent
        x0, y0 = x1 * distance, y1 * distance
    else:
        x0, y0 = x, y
        x1, y1 = x * 0, y * 0
    sx, dx = _axis(rotation, b, 0, x0, y0, x1, y1, d)
    sy, dy = _axis(rotation, b, 1, x0, y0, x1, y1, d)
    sz, dz = _axis(rotation, b, 2, x0, y0, x1, y1, d)
    near, far = _between(sx, dx, x * 0 - 1, x * 0 + 1, d)
    near, far = _between(sy, dy, near, far, d)
    near, far = _between(sz, dz, near, far, d)
    first = tl.maximum(tl.ceil((near + 1) * 0.5 * samples - 0.5), 0).to(tl.int32)
    last = tl.minimum(tl.floor((far + 1) * 0.5 * samples - 0.5) + 1, samples).to(tl.int32)
    hit = (near < far) & (pixel < size * size)
    first, last = tl.where(hit, first, samples), tl.where(hit, last, 0)  # what misses lengthens no lane's march
    return sx, dx, sy, dy, sz, dz, first, last, x0, y0, x1, y1


@triton.jit
@no_type_check
def _place(s, step, a, d):
    """Voxel and fraction along one axis of the padded grid."""
    u = tl.minimum(tl.maximum(s + a * step, 0.0), d + 1)
    i = tl.minimum(u.to(tl.int32), d)
    return i, u - i


@triton.jit
@no_type_check
def _corners(source, i, dx, dy, dz, inside):
    c000 = tl.load(source + i, mask=inside, other=0.0)
    c001 = tl.load(source + i + dx, mask=inside, other=0.0)
    c010 = tl.load(source + i + dy, mask=inside, other=0.0)
    c011 = tl.load(source + i + dy + dx, mask=inside, other=0.0)
    c100 = tl.load(source + i + dz, mask=inside, other=0.0)
    c101 = tl.load(source + i + dz + dx, mask=inside, other=0.0)
    c110 = tl.load(source + i + dz + dy, mask=inside, other=0.0)
    c111 = tl.load(source + i + dz + dy + dx, mask=inside, other=0.0)
    return c000, c001, c010, c011, c100, c101, c110, c111


@triton.jit
@no_type_check
def _sample(source, i, dx, dy, dz, fx, fy, fz, inside):
    c000, c001, c010, c011, c100, c101, c110, c111 = _corners(source, i, dx, dy, dz, inside)
    c00, c01 = c000 + fx * (c001 - c000), c010 + fx * (c011 - c010)
    c10, c11 = c100 + fx * (c101 - c100), c110 + fx * (c111 - c110)
    c0, c1 = c00 + fy * (c01 - c00), c10 + fy * (c11 - c10)
    return c0 + fz * (c1 - c0)


@triton.jit
@no_type_check
def _gradient(source, i, dx, dy, dz, fx, fy, fz, inside):
    """The sample's derivative to its position."""
    c000, c001, c010, c011, c100, c101, c110, c111 = _corners(source, i, dx, dy, dz, inside)
    x0, x1, x2, x3 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
    low = x0 + fy * (x1 - x0)
    by_x = low + fz * (x2 + fy * (x3 - x2) - low)
    c00, c01, c10, c11 = c000 + fx * x0, c010 + fx * x1, c100 + fx * x2, c110 + fx * x3
    by_y = c01 - c00 + fz * (c11 - c10 - c01 + c00)
    by_z = c10 - c00 + fy * (c11 - c01 - c10 + c00)
    return by_x, by_y, by_z


@triton.jit
@no_type_check
def _spread(target, i, dx, dy, dz, fx, fy, fz, g, mask):
    """Add g to the eight voxels around a sample, by their weights."""
    z1 = g * fz
    z0 = g - z1
    a1, b1 = z0 * fy, z1 * fy
    a0, b0 = z0 - a1, z1 - b1
    tl.atomic_add(target + i, a0 - a0 * fx, mask=mask)
    tl.atomic_add(target + i + dx, a0 * fx, mask=mask)
    tl.atomic_add(target + i + dy, a1 - a1 * fx, mask=mask)
    tl.atomic_add(target + i + dy + dx, a1 * fx, mask=mask)
    tl.atomic_add(target + i + dz, b0 - b0 * fx, mask=mask)
    tl.atomic_add(target + i + dz + dx, b0 * fx, mask=mask)
    tl.atomic_add(target + i + dz + dy, b1 - b1 * fx, mask=mask)
    tl.atomic_add(target + i + dz + dy + dx, b1 * fx, mask=mask)


@triton.jit
@no_type_check
def _forward(
    volume,
    color,
    rotation,
    d,
    size,
    samples,
    half_extent,
    distance,
    density,
    channels,
    alpha,
    image,
    PERSPECTIVE: tl.constexpr,
    HULL: tl.constexpr,
    COLORED: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(size * size, BLOCK)
    b = tl.program_id(0) // blocks
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    sx, dx, sy, dy, sz, dz, first, last, _x0, _y0, _x1, _y1 = _rays(
        rotation, b, pixel, d, size, samples, half_extent, distance, PERSPECTIVE
    )
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    grid = volume + b.to(tl.int64) * cube
    ch = tl.arange(0, CHANNELS)[None, :]
    tint = color + b.to(tl.int64) * cube * channels
    left = sx * 0 + 1
    total = sx * 0
    light = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for k in range(tl.min(first), tl.max(last)):
        inside = (k >= first) & (k < last)
        a = (2 * k + 1) / samples - 1
        ix, fx = _place(sx, dx, a, d)
        iy, fy = _place(sy, dy, a, d)
        iz, fz = _place(sz, dz, a, d)
        i = iz * slab + iy * row + ix
        v = _sample(grid, i, 1, row, slab, fx, fy, fz, inside)
        if HULL:
            total += v
        else:
            v *= density
            if COLORED:
                j = i[:, None] * channels + ch
                here = inside[:, None] & (ch < channels)
                c = _sample(
                    tint, j, channels, row * channels, slab * channels, fx[:, None], fy[:, None], fz[:, None], here
                )
                light += (left * v)[:, None] * c
            left *= 1 - v
    valid = pixel < size * size
    if HULL:
        left = tl.exp(-density * total)
    tl.store(alpha + b * size * size + pixel, 1 - left, mask=valid)
    if COLORED:
        where = (b * channels + ch) * size * size + pixel[:, None]
        tl.store(image + where, light, mask=valid[:, None] & (ch < channels))


@triton.jit
@no_type_check
def _backward(
    volume,
    color,
    rotation,
    d,
    size,
    samples,
    half_extent,
    distance,
    density,
    channels,
    grad_alpha,
    grad_image,
    grad_volume,
    grad_color,
    grad_rotation,
    scratch,
    tiles,
    programs,
    TURNED: tl.constexpr,
    PERSPECTIVE: tl.constexpr,
    HULL: tl.constexpr,
    COLORED: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(size * size, BLOCK)
    lanes = tl.arange(0, BLOCK)
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    ch = tl.arange(0, CHANNELS)[None, :]
    reached = scratch + tl.program_id(0).to(tl.int64) * samples * BLOCK + lanes
    for tile in range(tl.program_id(0), tiles, programs):
        b = tile // blocks
        pixel = tile % blocks * BLOCK + lanes
        valid = pixel < size * size
        offset = tl.cast(b, tl.int64) * cube
        grid, tint = volume + offset, color + offset * channels
        grad_grid, grad_tint = grad_volume + offset, grad_color + offset * channels
        sx, dx, sy, dy, sz, dz, first, last, x0, y0, x1, y1 = _rays(
            rotation, b, pixel, d, size, samples, half_extent, distance, PERSPECTIVE
        )
        low, high = tl.min(first), tl.max(last)
        worth = tl.load(grad_alpha + b * size * size + pixel, mask=valid, other=0.0)
        left = sx * 0 + 1
        total = sx * 0
        for k in range(low, high):
            inside = (k >= first) & (k < last)
            a = (2 * k + 1) / samples - 1
            ix, fx = _place(sx, dx, a, d)
            iy, fy = _place(sy, dy, a, d)
            iz, fz = _place(sz, dz, a, d)
            v = _sample(grid, iz * slab + iy * row + ix, 1, row, slab, fx, fy, fz, inside)
            if HULL:
                total += v
            else:
                tl.store(reached + k * BLOCK, left)
                left *= 1 - density * v
        if HULL:
            worth *= density * tl.exp(-density * total)
        if COLORED:
            where = (b * channels + ch) * size * size + pixel[:, None]
            up = tl.load(grad_image + where, mask=valid[:, None] & (ch < channels), other=0.0)
        behind = sx * 0
        px, py, pz = sx * 0, sx * 0, sx * 0
        qx, qy, qz = sx * 0, sx * 0, sx * 0
        for n in range(high - low):
            k = high - 1 - n
            inside = (k >= first) & (k < last)
            a = (2 * k + 1) / samples - 1
            ix, fx = _place(sx, dx, a, d)
            iy, fy = _place(sy, dy, a, d)
            iz, fz = _place(sz, dz, a, d)
            i = iz * slab + iy * row + ix
            g = worth
            if not HULL:
                v = density * _sample(grid, i, 1, row, slab, fx, fy, fz, inside)
                t = tl.load(reached + k * BLOCK)
                e = worth
                if COLORED:
                    j = i[:, None] * channels + ch
                    here = inside[:, None] & (ch < channels)
                    jx, jy, jz = channels, row * channels, slab * channels
                    hx, hy, hz = fx[:, None], fy[:, None], fz[:, None]
                    e += tl.sum(up * _sample(tint, j, jx, jy, jz, hx, hy, hz, here), 1)
                    w = up * (t * v)[:, None]
                    _spread(grad_tint, j, jx, jy, jz, hx, hy, hz, w, here)
                    if TURNED:
                        cx, cy, cz = _gradient(tint, j, jx, jy, jz, hx, hy, hz, here)
                        mx, my, mz = tl.sum(w * cx, 1), tl.sum(w * cy, 1), tl.sum(w * cz, 1)
                        px, py, pz = px + mx, py + my, pz + mz
                        qx, qy, qz = qx + a * mx, qy + a * my, qz + a * mz
                g = density * t * (e - behind)
                behind = tl.where(inside, v * e + (1 - v) * behind, behind)
            _spread(grad_grid, i, 1, row, slab, fx, fy, fz, g, inside)
            if TURNED:
                vx, vy, vz = _gradient(grid, i, 1, row, slab, fx, fy, fz, inside)
                px, py, pz = px + g * vx, py + g * vy, pz + g * vz
                qx, qy, qz = qx + a * g * vx, qy + a * g * vy, qz + a * g * vz
        if TURNED:
            into = grad_rotation + b * 9
            tl.atomic_add(into, d * tl.sum(x0 * px + x1 * qx))
            tl.atomic_add(into + 1, d * tl.sum(x0 * py + x1 * qy))
            tl.atomic_add(into + 2, d * tl.sum(x0 * pz + x1 * qz))
            tl.atomic_add(into + 3, d * tl.sum(y0 * px + y1 * qx))
            tl.atomic_add(into + 4, d * tl.sum(y0 * py + y1 * qy))
            tl.atomic_add(into + 5, d * tl.sum(y0 * pz + y1 * qz))
            tl.atomic_add(into + 6, -d * tl.sum(qx))
            tl.atomic_add(into + 7, -d * tl.sum(qy))
            tl.atomic_add(into + 8, -d * tl.sum(qz))
