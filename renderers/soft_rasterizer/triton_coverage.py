"""Triton kernels over pairs of triangles and pixels: the depth test and the soft fragments.

Each lane handles one triangle.
"""

# ruff: noqa: ANN001, ANN201, ANN202, SIM108 (Triton infers the kernels' types, and branches at compile time)
# No __future__ import: Triton reads the annotations of its constants.

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _corners(screen, faces, f, mask, b, vertices):
    """Load corners a, b and c of faces f as x, y and depth; masked lanes get zeros."""
    base = screen + b * vertices * 3
    a = tl.load(faces + 3 * f, mask=mask, other=0) * 3
    ax = tl.load(base + a, mask=mask, other=0.0)
    ay = tl.load(base + a + 1, mask=mask, other=0.0)
    az = tl.load(base + a + 2, mask=mask, other=0.0)
    b = tl.load(faces + 3 * f + 1, mask=mask, other=0) * 3
    bx = tl.load(base + b, mask=mask, other=0.0)
    by = tl.load(base + b + 1, mask=mask, other=0.0)
    bz = tl.load(base + b + 2, mask=mask, other=0.0)
    c = tl.load(faces + 3 * f + 2, mask=mask, other=0) * 3
    cx = tl.load(base + c, mask=mask, other=0.0)
    cy = tl.load(base + c + 1, mask=mask, other=0.0)
    cz = tl.load(base + c + 2, mask=mask, other=0.0)
    return ax, ay, az, bx, by, bz, cx, cy, cz


@triton.jit
@no_type_check
def _square(x, y):
    return x * x + y * y


@triton.jit
@no_type_check
def _is_visible(ax, ay, az, bx, by, bz, cx, cy, cz, area, NEAR, THIN, CULL):
    longest = tl.maximum(tl.maximum(_square(bx - ax, by - ay), _square(cx - bx, cy - by)), _square(ax - cx, ay - cy))
    visible = (az >= NEAR) & (bz >= NEAR) & (cz >= NEAR) & (area * area > THIN * THIN * longest)
    if CULL:
        visible = visible & (area < 0)
    return visible


@triton.jit
@no_type_check
def _span(p, q, r, margin, size):
    """Return the first pixel centre and the number of pixel centres within a triangle's extent along one axis."""
    low = tl.minimum(tl.minimum(p, q), r) - margin - 0.5
    high = tl.maximum(tl.maximum(p, q), r) + margin - 0.5
    # Clamp before rounding, because a far off-screen corner does not fit an integer.
    first = tl.ceil(tl.minimum(tl.maximum(low, 0.0), size + 0.0)).to(tl.int32)
    last = tl.floor(tl.minimum(tl.maximum(high, -1.0), size - 1.0)).to(tl.int32)
    return first, tl.maximum(last - first + 1, 0)


@triton.jit
@no_type_check
def _load_triangles(screen, faces, f, b, vertices, count, size, margin, NEAR, THIN, CULL):
    """Load corners and orientation of faces f, and their pixels: those of a box grown by the margin, row by row."""
    ax, ay, az, bx, by, bz, cx, cy, cz = _corners(screen, faces, f, f < count, b, vertices)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    visible = _is_visible(ax, ay, az, bx, by, bz, cx, cy, cz, area, NEAR, THIN, CULL)
    left, width = _span(ax, bx, cx, margin, size)
    top, height = _span(ay, by, cy, margin, size)
    pairs = tl.where(visible, width * height, 0)
    sign = tl.where(area > 0, 1.0, -1.0)
    return ax, ay, az, bx, by, bz, cx, cy, cz, sign, left, top, tl.maximum(width, 1), pairs


@triton.jit
@no_type_check
def crisp(
    screen,
    faces,
    packed,
    vertices,
    count,
    size,
    NEAR: tl.constexpr,
    THIN: tl.constexpr,
    CULL: tl.constexpr,
    PERSPECTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set ``packed`` (the depth's bits above the face index) to the nearest triangle at each pixel's centre."""
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(1)
    ax, ay, az, bx, by, bz, cx, cy, cz, sign, left, top, width, pairs = _load_triangles(
        screen, faces, f, b, vertices, count, size, 0.0, NEAR, THIN, CULL
    )
    for k in range(tl.max(pairs, 0)):
        x, y = left + k % width, top + k // width
        px, py = x + 0.5, y + 0.5
        ea = (bx - px) * (cy - py) - (by - py) * (cx - px)
        eb = (cx - px) * (ay - py) - (cy - py) * (ax - px)
        ec = (ax - px) * (by - py) - (ay - py) * (bx - px)
        inside = (k < pairs) & (ea * sign >= 0) & (eb * sign >= 0) & (ec * sign >= 0)
        if PERSPECTIVE:
            z = (ea + eb + ec) / (ea / az + eb / bz + ec / cz)
        else:
            z = (ea * az + eb * bz + ec * cz) / (ea + eb + ec)
        key = (z.to(tl.int32, bitcast=True).to(tl.int64) << 32) | f.to(tl.int64)
        tl.atomic_min(packed + (b * size + y) * size + x, key, mask=inside)


@triton.jit
@no_type_check
def _nearer_edge(sx, sy, sz, tx, ty, tz, sign, index, best, t, edge, zs, zt):
    """Replace the best edge by that from s to t if the origin is outside it and its squared distance is below ``best``."""
    dx, dy = tx - sx, ty - sy
    along = -(sx * dx + sy * dy) / _square(dx, dy)
    along = tl.minimum(tl.maximum(along, 0.0), 1.0)
    square = _square(sx + along * dx, sy + along * dy)
    nearer = ((sx * ty - sy * tx) * sign < 0) & (square < best)
    return (
        tl.where(nearer, square, best),
        tl.where(nearer, along, t),
        tl.where(nearer, index, edge),
        tl.where(nearer, sz, zs),
        tl.where(nearer, tz, zt),
    )


@triton.jit
@no_type_check
def soft(
    screen,
    faces,
    packed,
    vertices,
    count,
    size,
    margin,
    slope,
    integers,
    floats,
    counter,
    capacity,
    NEAR: tl.constexpr,
    THIN: tl.constexpr,
    CULL: tl.constexpr,
    PERSPECTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Append the soft fragments that no crisp one hides: pixel, face, edge; depth with the slope, distance.

    ``counter`` counts all of them; those beyond ``capacity`` are not stored.
    """
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(1)
    ax, ay, az, bx, by, bz, cx, cy, cz, sign, left, top, width, pairs = _load_triangles(
        screen, faces, f, b, vertices, count, size, margin, NEAR, THIN, CULL
    )
    for k in range(tl.max(pairs, 0)):
        x, y = left + k % width, top + k // width
        px, py = x + 0.5, y + 0.5
        pixel = (b * size + y) * size + x
        crisp_depth = (tl.load(packed + pixel, mask=k < pairs, other=0) >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        best, t = tl.zeros_like(px) + margin * margin, tl.zeros_like(px)
        edge, zs, zt = tl.zeros_like(f) - 1, tl.zeros_like(px) + 1.0, tl.zeros_like(px) + 1.0
        best, t, edge, zs, zt = _nearer_edge(bx - px, by - py, bz, cx - px, cy - py, cz, sign, 0, best, t, edge, zs, zt)
        best, t, edge, zs, zt = _nearer_edge(cx - px, cy - py, cz, ax - px, ay - py, az, sign, 1, best, t, edge, zs, zt)
        best, t, edge, zs, zt = _nearer_edge(ax - px, ay - py, az, bx - px, by - py, bz, sign, 2, best, t, edge, zs, zt)
        distance = tl.sqrt(best)
        if PERSPECTIVE:
            z = 1.0 / ((1 - t) / zs + t / zt) + slope * distance
        else:
            z = (1 - t) * zs + t * zt + slope * distance
        hit = (k < pairs) & (edge >= 0) & (distance < margin) & (z < crisp_depth)
        hits = tl.sum(hit.to(tl.int32), 0)
        if hits > 0:
            slot = tl.atomic_add(counter, hits) + tl.cumsum(hit.to(tl.int32), 0) - 1
            stored = hit & (slot < capacity)
            tl.store(integers + slot, pixel.to(tl.int64), mask=stored)
            tl.store(integers + capacity + slot, f.to(tl.int64), mask=stored)
            tl.store(integers + 2 * capacity + slot, edge.to(tl.int64), mask=stored)
            tl.store(floats + slot, z, mask=stored)
            tl.store(floats + capacity + slot, distance, mask=stored)
