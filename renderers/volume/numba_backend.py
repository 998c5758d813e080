"""The CPU backend of the volume renderers: rays march through the grid itself, and only where they cross it.

The formulas are :mod:`renderers.volume.reference`'s, the backward pass their derivative by hand, without a division: with
``e_i`` what a unit of sample i's light is worth and ``E_i`` what all that lies behind it shows (``E_{i-1} = v_i e_i +
(1 - v_i) E_i``), the derivative to v_i is ``T_i (e_i - E_i)``, also where voxels are opaque.
"""

# ruff: noqa: ANN001, ANN202 (numba types the kernels itself)

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.numba_jit import compiled
from renderers.volume.reference import Rays, pad


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
        alpha = volume.new_empty(batch, 1, size, size)
        image = volume.new_empty(batch, color.shape[-1], size, size)
        kind = volume.detach().numpy().dtype.type
        ctx.rays = (rays.samples, rays.perspective, kind(rays.half_extent), kind(rays.distance), hull, kind(density))
        inputs = _numpy(volume, color, rotation)
        outputs = _numpy(alpha, image)
        _each(batch, lambda b: _forward(*(x[b] for x in inputs), *ctx.rays, *(x[b] for x in outputs)))
        ctx.save_for_backward(volume, color, rotation)
        return alpha, image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_alpha: Tensor, grad_image: Tensor) -> tuple[Tensor | None, ...]:
        volume, color, rotation = ctx.saved_tensors
        grads = tuple(torch.zeros_like(x) for x in (volume, color, rotation))
        arrays = _numpy(volume, color, rotation)
        ups = _numpy(grad_alpha.contiguous(), grad_image.contiguous())
        downs = _numpy(*grads)
        turned = ctx.needs_input_grad[2]

        def run(b: int) -> None:
            _backward(*(x[b] for x in arrays), *ctx.rays, turned, *(x[b] for x in ups), *(x[b] for x in downs))

        _each(len(volume), run)
        wanted = zip(grads, ctx.needs_input_grad, strict=False)
        return (*(g if w else None for g, w in wanted), None, None, None)


def _numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().numpy() for t in tensors]


def _each(count: int, work: Callable[[int], None]) -> None:
    """Image by image, on as many threads as torch uses; the kernels hold no lock."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        for b in range(count):
            work(b)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))


@compiled
@no_type_check
def _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step):
    """Position in the padded grid, ``start + a step``, and in the camera's frame, ``origin + a slope``."""
    kind = origin.dtype.type
    if perspective:
        origin[0], origin[1] = x * half_extent * distance, y * half_extent * distance
        slope[0], slope[1] = x * half_extent, y * half_extent
    else:
        origin[0], origin[1] = x, y
        slope[0], slope[1] = kind(0), kind(0)
    origin[2], slope[2] = kind(0), kind(-1)
    for j in range(3):
        o = rotation[0, j] * origin[0] + rotation[1, j] * origin[1]
        s = rotation[0, j] * slope[0] + rotation[1, j] * slope[1] - rotation[2, j]
        start[j] = kind(d) * o + kind(d) * kind(0.5) + kind(0.5)
        step[j] = kind(d) * s


@compiled
@no_type_check
def _crossing(start, step, d, samples):
    """First and last but one sample inside of the padded grid, where trilinear samples may differ from 0."""
    near, far = -1.0, 1.0
    for j in range(3):
        u, s = np.float64(start[j]), np.float64(step[j])
        if abs(s) < 1e-12:
            if u <= 0 or u >= d + 1:
                return 0, 0
        else:
            a, b = -u / s, (d + 1 - u) / s
            near, far = max(near, min(a, b)), min(far, max(a, b))
    if near >= far:
        return 0, 0
    first = max(0, int(np.ceil((near + 1) / 2 * samples - 0.5)))
    last = min(samples, int(np.floor((far + 1) / 2 * samples - 0.5)) + 1)
    return first, last


@compiled
@no_type_check
def _forward(volume, color, rotation, samples, perspective, half_extent, distance, hull, density, alpha, image):
    kind = rotation.dtype.type
    d, size, channels = volume.shape[1] - 2, alpha.shape[1], color.shape[3]
    flat, tinted = volume.reshape(-1), color.reshape(-1)
    row, slab = d + 2, (d + 2) * (d + 2)
    one = kind(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    light = np.empty(channels, rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = kind(2 * c + 1) / kind(size) - one, one - kind(2 * r + 1) / kind(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _crossing(start, step, d, samples)
            left, total = one, kind(0)
            light[:] = 0
            for k in range(first, last):
                a = kind(2 * k + 1) / kind(samples) - one
                i, fx, fy, fz = _place(start, step, a, d)
                v = _trilinear(flat, i, 1, row, slab, fx, fy, fz)
                if hull:
                    total += v
                    continue
                v *= density
                if channels and v > 0:
                    for ch in range(channels):
                        light[ch] += (
                            left
                            * v
                            * _trilinear(
                                tinted, i * channels + ch, channels, row * channels, slab * channels, fx, fy, fz
                            )
                        )
                left *= one - v
                if left == 0:
                    break
            alpha[0, r, c] = one - np.exp(-density * total) if hull else one - left
            for ch in range(channels):
                image[ch, r, c] = light[ch]


@compiled
@no_type_check
def _place(start, step, a, d):
    """The voxel below a sample, as an index into a flat padded grid, and the sample's place between it and the next."""
    kind = start.dtype.type
    ux = min(max(start[0] + a * step[0], kind(0)), kind(d + 1))
    uy = min(max(start[1] + a * step[1], kind(0)), kind(d + 1))
    uz = min(max(start[2] + a * step[2], kind(0)), kind(d + 1))
    ix, iy, iz = min(np.int32(ux), d), min(np.int32(uy), d), min(np.int32(uz), d)
    return (iz * (d + 2) + iy) * (d + 2) + ix, ux - kind(ix), uy - kind(iy), uz - kind(iz)


@compiled
@no_type_check
def _trilinear(source, j, dx, dy, dz, fx, fy, fz):
    """Between the eight values from j on, ``dx``, ``dy`` and ``dz`` apart."""
    c00 = source[j] + fx * (source[j + dx] - source[j])
    c01 = source[j + dy] + fx * (source[j + dy + dx] - source[j + dy])
    j += dz
    c10 = source[j] + fx * (source[j + dx] - source[j])
    c11 = source[j + dy] + fx * (source[j + dy + dx] - source[j + dy])
    c0 = c00 + fy * (c01 - c00)
    c1 = c10 + fy * (c11 - c10)
    return c0 + fz * (c1 - c0)


@compiled
@no_type_check
def _backward(
    volume,
    color,
    rotation,
    samples,
    perspective,
    half_extent,
    distance,
    hull,
    density,
    turned,
    grad_alpha,
    grad_image,
    grad_volume,
    grad_color,
    grad_rotation,
):
    kind = rotation.dtype.type
    d, size, channels = volume.shape[1] - 2, grad_alpha.shape[1], color.shape[3]
    flat, tinted = volume.reshape(-1), color.reshape(-1)
    grad_flat, grad_tinted = grad_volume.reshape(-1), grad_color.reshape(-1)
    row, slab = d + 2, (d + 2) * (d + 2)
    one = kind(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    at = np.empty(samples, np.int32)
    xs, ys, zs, vs, ts, es = np.empty((6, samples), rotation.dtype)
    g0, g1 = np.empty((2, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            worth = grad_alpha[0, r, c]
            dark = worth == 0
            for ch in range(channels):
                dark = dark and grad_image[ch, r, c] == 0
            if dark:
                continue
            x, y = kind(2 * c + 1) / kind(size) - one, one - kind(2 * r + 1) / kind(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _crossing(start, step, d, samples)
            left, total = one, kind(0)
            n = 0
            for k in range(first, last):
                a = kind(2 * k + 1) / kind(samples) - one
                i, fx, fy, fz = _place(start, step, a, d)
                at[n], xs[n], ys[n], zs[n] = i, fx, fy, fz
                v = _trilinear(flat, i, 1, row, slab, fx, fy, fz)
                n += 1
                if hull:
                    total += v
                    continue
                v *= density
                vs[n - 1], ts[n - 1] = v, left
                left *= one - v
                if channels:
                    e = worth
                    for ch in range(channels):
                        e += grad_image[ch, r, c] * _trilinear(
                            tinted, i * channels + ch, channels, row * channels, slab * channels, fx, fy, fz
                        )
                    es[n - 1] = e
            # The march does not end at an opaque sample: its derivative is what would show without it.
            behind = kind(0)
            if hull:
                worth *= density * np.exp(-density * total)
            g0[:] = 0
            g1[:] = 0
            for m in range(n - 1, -1, -1):
                i, fx, fy, fz = at[m], xs[m], ys[m], zs[m]
                a = kind(2 * (first + m) + 1) / kind(samples) - one
                g = worth
                if not hull:
                    v, t = vs[m], ts[m]
                    e = es[m] if channels else worth
                    g = density * t * (e - behind)
                    behind = v * e + (one - v) * behind
                    for ch in range(channels):
                        w = grad_image[ch, r, c] * t * v
                        if w != 0:
                            j, dx, dy, dz = i * channels + ch, channels, row * channels, slab * channels
                            _spread(grad_tinted, j, dx, dy, dz, fx, fy, fz, w)
                            if turned:
                                _move(tinted, j, dx, dy, dz, fx, fy, fz, w, a, g0, g1)
                _spread(grad_flat, i, 1, row, slab, fx, fy, fz, g)
                if turned:
                    _move(flat, i, 1, row, slab, fx, fy, fz, g, a, g0, g1)
            if turned:
                for i in range(3):
                    for j in range(3):
                        grad_rotation[i, j] += kind(d) * (origin[i] * g0[j] + slope[i] * g1[j])


@compiled
@no_type_check
def _spread(target, i, dx, dy, dz, fx, fy, fz, g):
    """Add g to the eight voxels around a sample, by their weights."""
    z1 = g * fz
    z0 = g - z1
    a1 = z0 * fy
    a0 = z0 - a1
    b1 = z1 * fy
    b0 = z1 - b1
    target[i] += a0 - a0 * fx
    target[i + dx] += a0 * fx
    target[i + dy] += a1 - a1 * fx
    target[i + dy + dx] += a1 * fx
    i += dz
    target[i] += b0 - b0 * fx
    target[i + dx] += b0 * fx
    target[i + dy] += b1 - b1 * fx
    target[i + dy + dx] += b1 * fx


@compiled
@no_type_check
def _move(source, i, dx, dy, dz, fx, fy, fz, g, a, g0, g1):
    """Add g times the sample's derivative to its position, to the ray's start (g0) and, times a, to its step (g1)."""
    e = i + dz
    x0, x1 = source[i + dx] - source[i], source[i + dy + dx] - source[i + dy]
    x2, x3 = source[e + dx] - source[e], source[e + dy + dx] - source[e + dy]
    low = x0 + fy * (x1 - x0)
    by_x = low + fz * (x2 + fy * (x3 - x2) - low)
    c00, c01 = source[i] + fx * x0, source[i + dy] + fx * x1
    c10, c11 = source[e] + fx * x2, source[e + dy] + fx * x3
    by_y = c01 - c00 + fz * (c11 - c10 - c01 + c00)
    by_z = c10 - c00 + fy * (c11 - c01 - c10 + c00)
    g0[0] += g * by_x
    g0[1] += g * by_y
    g0[2] += g * by_z
    g1[0] += g * a * by_x
    g1[1] += g * a * by_y
    g1[2] += g * a * by_z


def resample(
    volume: Float[Tensor, "B C D D D"], rotation: Float[Tensor, "B 3 3"], rays: Rays
) -> Float[Tensor, "B C S S S"]:
    """All samples, as :func:`renderers.grid_sampling.resample` gives them."""
    return _Resample.apply(F.pad(volume, [1] * 6), rotation, rays)


class _Resample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volume: Tensor, rotation: Tensor, rays: Rays) -> Tensor:
        volume, rotation = volume.contiguous(), rotation.contiguous()
        kind = volume.detach().numpy().dtype.type
        ctx.rays = (rays.perspective, kind(rays.half_extent), kind(rays.distance))
        seen = volume.new_zeros(*volume.shape[:2], *[rays.image_size] * 3)
        arrays = _numpy(volume, rotation, seen)
        _each(len(volume), lambda b: _resample_forward(*(x[b] for x in arrays[:2]), *ctx.rays, arrays[2][b]))
        ctx.save_for_backward(volume, rotation)
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        volume, rotation = ctx.saved_tensors
        grads = tuple(torch.zeros_like(x) for x in (volume, rotation))
        ups, downs = _numpy(volume, rotation), _numpy(grad.contiguous(), *grads)
        turned = ctx.needs_input_grad[1]

        def run(b: int) -> None:
            _resample_backward(*(x[b] for x in ups), *ctx.rays, turned, *(x[b] for x in downs))

        _each(len(volume), run)
        return (*(g if w else None for g, w in zip(grads, ctx.needs_input_grad, strict=False)), None)


@compiled
@no_type_check
def _resample_forward(volume, rotation, perspective, half_extent, distance, seen):
    kind = rotation.dtype.type
    d, size = volume.shape[1] - 2, seen.shape[1]
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    flat = volume.reshape(-1)
    one = kind(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = kind(2 * c + 1) / kind(size) - one, one - kind(2 * r + 1) / kind(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _crossing(start, step, d, size)
            for k in range(first, last):
                a = kind(2 * k + 1) / kind(size) - one
                i, fx, fy, fz = _place(start, step, a, d)
                for ch in range(volume.shape[0]):
                    j = ch * cube + i
                    seen[ch, k, r, c] = _trilinear(flat, j, 1, row, slab, fx, fy, fz)


@compiled
@no_type_check
def _resample_backward(volume, rotation, perspective, half_extent, distance, turned, grad, grad_volume, grad_rotation):
    kind = rotation.dtype.type
    d, size = volume.shape[1] - 2, grad.shape[1]
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    flat, grad_flat = volume.reshape(-1), grad_volume.reshape(-1)
    one = kind(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    g0, g1 = np.empty((2, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = kind(2 * c + 1) / kind(size) - one, one - kind(2 * r + 1) / kind(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _crossing(start, step, d, size)
            g0[:] = 0
            g1[:] = 0
            for k in range(first, last):
                a = kind(2 * k + 1) / kind(size) - one
                i, fx, fy, fz = _place(start, step, a, d)
                for ch in range(volume.shape[0]):
                    g = grad[ch, k, r, c]
                    j = ch * cube + i
                    _spread(grad_flat, j, 1, row, slab, fx, fy, fz, g)
                    if turned:
                        _move(flat, j, 1, row, slab, fx, fy, fz, g, a, g0, g1)
            if turned:
                for i in range(3):
                    for j in range(3):
                        grad_rotation[i, j] += kind(d) * (origin[i] * g0[j] + slope[i] * g1[j])
