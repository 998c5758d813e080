"""Triton kernels of the volume renderers, float32: :mod:`renderers.volume.numba_kernels` with one lane per pixel.

The backward pass marches twice. Front to back, it stores the transmittance up to each sample in a scratch buffer
whose size does not depend on the batch. Back to front, it accumulates the gradients.
"""

# ruff: noqa: ANN001, ANN201, ANN202 (Triton infers the kernels' types)
# No __future__ import: Triton reads the annotations of its constants.

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _axis(rotation, b, j, x0, y0, x1, y1, d):
    """Return the start and step of coordinate j of a ray in the padded grid, ``start + a step``."""
    r0 = tl.load(rotation + b * 9 + j)
    r1 = tl.load(rotation + b * 9 + 3 + j)
    r2 = tl.load(rotation + b * 9 + 6 + j)
    return d * (r0 * x0 + r1 * y0) + 0.5 * d + 0.5, d * (r0 * x1 + r1 * y1 - r2)


@triton.jit
@no_type_check
def _clip_range(start, step, near, far, d):
    """Clip a ray's range [near, far] to the padded grid along one axis."""
    parallel = tl.abs(step) < 1e-7
    safe = tl.where(parallel, 1.0, step)
    a, b = -start / safe, (d + 1 - start) / safe
    out = parallel & ((start <= 0) | (start >= d + 1))
    near = tl.where(parallel, near, tl.maximum(near, tl.minimum(a, b)))
    far = tl.where(parallel, far, tl.minimum(far, tl.maximum(a, b)))
    return near, tl.where(out, -2.0, far)


@triton.jit
@no_type_check
def _rays(rotation, b, pixel, d, size, samples, half_extent, distance, PERSPECTIVE: tl.constexpr):
    """Return each lane's ray: start and step along x, y and z, range of samples, and x and y in the camera frame."""
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
    near, far = _clip_range(sx, dx, x * 0 - 1, x * 0 + 1, d)
    near, far = _clip_range(sy, dy, near, far, d)
    near, far = _clip_range(sz, dz, near, far, d)
    first = tl.maximum(tl.ceil((near + 1) * 0.5 * samples - 0.5), 0).to(tl.int32)
    last = tl.minimum(tl.floor((far + 1) * 0.5 * samples - 0.5) + 1, samples).to(tl.int32)
    hit = (near < far) & (pixel < size * size)
    first, last = tl.where(hit, first, samples), tl.where(hit, last, 0)  # empty for rays that miss
    return sx, dx, sy, dy, sz, dz, first, last, x0, y0, x1, y1


@triton.jit
@no_type_check
def _voxel_and_fraction(s, step, a, d):
    """Return the voxel below a sample and the fraction to the next, along one axis of the padded grid."""
    u = tl.minimum(tl.maximum(s + a * step, 0.0), d + 1)
    i = tl.minimum(u.to(tl.int32), d)
    return i, u - i


@triton.jit
@no_type_check
def _locate(k, samples, sx, dx, sy, dy, sz, dz, d):
    """Return sample k's flat voxel index in the padded grid, its fractions to the next voxels, and its ray parameter a."""
    a = (2 * k + 1) / samples - 1
    ix, fx = _voxel_and_fraction(sx, dx, a, d)
    iy, fy = _voxel_and_fraction(sy, dy, a, d)
    iz, fz = _voxel_and_fraction(sz, dz, a, d)
    return iz * ((d + 2) * (d + 2)) + iy * (d + 2) + ix, fx, fy, fz, a


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
    """Return the sample's derivative with respect to its position."""
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
def _scatter(target, i, dx, dy, dz, fx, fy, fz, g, mask):
    """Add g to the eight voxels around a sample, by their trilinear weights."""
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
def forward(
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
    grid_color = color + b.to(tl.int64) * cube * channels
    transmittance = sx * 0 + 1
    total = sx * 0
    light = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for k in range(tl.min(first), tl.max(last)):
        inside = (k >= first) & (k < last)
        i, fx, fy, fz, _ = _locate(k, samples, sx, dx, sy, dy, sz, dz, d)
        v = _sample(grid, i, 1, row, slab, fx, fy, fz, inside)
        if HULL:
            total += v
        else:
            v *= density
            if COLORED:
                j = i[:, None] * channels + ch
                valid_channels = inside[:, None] & (ch < channels)
                c = _sample(
                    grid_color,
                    j,
                    channels,
                    row * channels,
                    slab * channels,
                    fx[:, None],
                    fy[:, None],
                    fz[:, None],
                    valid_channels,
                )
                light += (transmittance * v)[:, None] * c
            transmittance *= 1 - v
    valid = pixel < size * size
    if HULL:
        transmittance = tl.exp(-density * total)
    tl.store(alpha + b * size * size + pixel, 1 - transmittance, mask=valid)
    if COLORED:
        offsets = (b * channels + ch) * size * size + pixel[:, None]
        tl.store(image + offsets, light, mask=valid[:, None] & (ch < channels))


@triton.jit
@no_type_check
def backward(
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
    NEEDS_ROTATION: tl.constexpr,
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
    stored = scratch + tl.program_id(0).to(tl.int64) * samples * BLOCK + lanes
    for tile in range(tl.program_id(0), tiles, programs):
        b = tile // blocks
        pixel = tile % blocks * BLOCK + lanes
        valid = pixel < size * size
        offset = tl.cast(b, tl.int64) * cube
        grid, grid_color = volume + offset, color + offset * channels
        grad_grid, grad_grid_color = grad_volume + offset, grad_color + offset * channels
        sx, dx, sy, dy, sz, dz, first, last, x0, y0, x1, y1 = _rays(
            rotation, b, pixel, d, size, samples, half_extent, distance, PERSPECTIVE
        )
        low, high = tl.min(first), tl.max(last)
        grad_light = tl.load(grad_alpha + b * size * size + pixel, mask=valid, other=0.0)
        transmittance = sx * 0 + 1
        total = sx * 0
        for k in range(low, high):
            inside = (k >= first) & (k < last)
            i, fx, fy, fz, _ = _locate(k, samples, sx, dx, sy, dy, sz, dz, d)
            v = _sample(grid, i, 1, row, slab, fx, fy, fz, inside)
            if HULL:
                total += v
            else:
                tl.store(stored + k * BLOCK, transmittance)
                transmittance *= 1 - density * v
        if HULL:
            grad_light *= density * tl.exp(-density * total)
        if COLORED:
            offsets = (b * channels + ch) * size * size + pixel[:, None]
            grad_pixel = tl.load(grad_image + offsets, mask=valid[:, None] & (ch < channels), other=0.0)
        grad_behind = sx * 0
        px, py, pz = sx * 0, sx * 0, sx * 0
        qx, qy, qz = sx * 0, sx * 0, sx * 0
        for n in range(high - low):
            k = high - 1 - n
            inside = (k >= first) & (k < last)
            i, fx, fy, fz, a = _locate(k, samples, sx, dx, sy, dy, sz, dz, d)
            g = grad_light
            if not HULL:
                v = density * _sample(grid, i, 1, row, slab, fx, fy, fz, inside)
                t = tl.load(stored + k * BLOCK)
                e = grad_light
                if COLORED:
                    j = i[:, None] * channels + ch
                    valid_channels = inside[:, None] & (ch < channels)
                    jx, jy, jz = channels, row * channels, slab * channels
                    hx, hy, hz = fx[:, None], fy[:, None], fz[:, None]
                    e += tl.sum(grad_pixel * _sample(grid_color, j, jx, jy, jz, hx, hy, hz, valid_channels), 1)
                    w = grad_pixel * (t * v)[:, None]
                    _scatter(grad_grid_color, j, jx, jy, jz, hx, hy, hz, w, valid_channels)
                    if NEEDS_ROTATION:
                        cx, cy, cz = _gradient(grid_color, j, jx, jy, jz, hx, hy, hz, valid_channels)
                        mx, my, mz = tl.sum(w * cx, 1), tl.sum(w * cy, 1), tl.sum(w * cz, 1)
                        px, py, pz = px + mx, py + my, pz + mz
                        qx, qy, qz = qx + a * mx, qy + a * my, qz + a * mz
                g = density * t * (e - grad_behind)
                grad_behind = tl.where(inside, v * e + (1 - v) * grad_behind, grad_behind)
            _scatter(grad_grid, i, 1, row, slab, fx, fy, fz, g, inside)
            if NEEDS_ROTATION:
                vx, vy, vz = _gradient(grid, i, 1, row, slab, fx, fy, fz, inside)
                px, py, pz = px + g * vx, py + g * vy, pz + g * vz
                qx, qy, qz = qx + a * g * vx, qy + a * g * vy, qz + a * g * vz
        if NEEDS_ROTATION:
            grad_matrix = grad_rotation + b * 9
            tl.atomic_add(grad_matrix, d * tl.sum(x0 * px + x1 * qx))
            tl.atomic_add(grad_matrix + 1, d * tl.sum(x0 * py + x1 * qy))
            tl.atomic_add(grad_matrix + 2, d * tl.sum(x0 * pz + x1 * qz))
            tl.atomic_add(grad_matrix + 3, d * tl.sum(y0 * px + y1 * qx))
            tl.atomic_add(grad_matrix + 4, d * tl.sum(y0 * py + y1 * qy))
            tl.atomic_add(grad_matrix + 5, d * tl.sum(y0 * pz + y1 * qz))
            tl.atomic_add(grad_matrix + 6, -d * tl.sum(qx))
            tl.atomic_add(grad_matrix + 7, -d * tl.sum(qy))
            tl.atomic_add(grad_matrix + 8, -d * tl.sum(qz))
