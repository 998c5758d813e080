"""Triton kernels over fragments: weights, barycentric coordinates and textures, forward and backward.

Each lane computes one fragment. Fragments with pixel -1 are padding: their weights, coordinates and gradients are 0.
"""

# ruff: noqa: ANN001, ANN201, ANN202 (Triton infers the kernels' types)
# No __future__ import: Triton reads the annotations of its constants.

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _load(screen, faces, pixel, face, edge, n, real, vertices, size):
    """Load a fragment: its pixel, whether it is crisp, its edge, and its corners' offsets into ``screen`` and x, y, depth.

    x and y are relative to the pixel's centre. Corners i and j are the ends of the fragment's edge, and k is opposite; a
    crisp fragment uses edge 0.
    """
    at = tl.load(pixel + n, mask=real, other=0)
    f = tl.load(face + n, mask=real, other=0)
    e = tl.load(edge + n, mask=real, other=-1)
    is_crisp = e < 0
    e = tl.maximum(e, 0).to(tl.int32)
    b = at // (size * size)
    px = (at % size).to(tl.float32) + 0.5
    py = (at // size % size).to(tl.float32) + 0.5
    i, j = (e + 1) % 3, (e + 2) % 3
    oi = (b * vertices + tl.load(faces + 3 * f + i, mask=real, other=0)) * 3
    oj = (b * vertices + tl.load(faces + 3 * f + j, mask=real, other=0)) * 3
    ok = (b * vertices + tl.load(faces + 3 * f + e, mask=real, other=0)) * 3
    ix, iy = tl.load(screen + oi, mask=real, other=0.0) - px, tl.load(screen + oi + 1, mask=real, other=0.0) - py
    jx, jy = tl.load(screen + oj, mask=real, other=0.0) - px, tl.load(screen + oj + 1, mask=real, other=0.0) - py
    kx, ky = tl.load(screen + ok, mask=real, other=0.0) - px, tl.load(screen + ok + 1, mask=real, other=0.0) - py
    zi = tl.load(screen + oi + 2, mask=real, other=1.0)
    zj = tl.load(screen + oj + 2, mask=real, other=1.0)
    zk = tl.load(screen + ok + 2, mask=real, other=1.0)
    return at, is_crisp, e, oi, oj, ok, ix, iy, zi, jx, jy, zj, kx, ky, zk


@triton.jit
@no_type_check
def _along(ix, iy, jx, jy):
    """Return the parameter of the point nearest to the origin on the edge from i to j, and its distance."""
    dx, dy = jx - ix, jy - iy
    t = tl.minimum(tl.maximum(-(ix * dx + iy * dy) / (dx * dx + dy * dy), 0.0), 1.0)
    rx, ry = ix + t * dx, iy + t * dy
    return t, tl.sqrt(rx * rx + ry * ry)


@triton.jit
@no_type_check
def evaluate(
    screen,
    faces,
    pixel,
    face,
    edge,
    vertices,
    count,
    size,
    margin,
    weights,
    barycentric,
    alpha,
    depth,
    PERSPECTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    real = tl.load(pixel + n, mask=inside, other=-1) >= 0
    at, is_crisp, e, _, _, _, ix, iy, zi, jx, jy, zj, kx, ky, zk = _load(
        screen, faces, pixel, face, edge, n, real, vertices, size
    )
    t, distance = _along(ix, iy, jx, jy)
    coverage = tl.where(is_crisp, 1.0, 1.0 - distance / margin)
    wi = tl.where(is_crisp, jx * ky - jy * kx, 1.0 - t)
    wj = tl.where(is_crisp, kx * iy - ky * ix, t)
    wk = tl.where(is_crisp, ix * jy - iy * jx, 0.0)
    if PERSPECTIVE:
        wi, wj, wk = wi / zi, wj / zj, wk / zk
    total = wi + wj + wk
    wi, wj, wk = wi / total, wj / total, wk / total
    tl.store(barycentric + 3 * n + (e + 1) % 3, tl.where(real, wi, 0.0), mask=inside)
    tl.store(barycentric + 3 * n + (e + 2) % 3, tl.where(real, wj, 0.0), mask=inside)
    tl.store(barycentric + 3 * n + e, tl.where(real, wk, 0.0), mask=inside)
    tl.store(depth + at, wi * zi + wj * zj + wk * zk, mask=real & is_crisp)

    last = tl.load(pixel + n + 1, mask=n + 1 < count, other=-1) != at
    tl.store(alpha + at, coverage, mask=real & last)
    follows = real & (n > 0) & (tl.load(pixel + n - 1, mask=real & (n > 0), other=-1) == at)
    # A previous fragment of the same pixel is always soft.
    _, _, _, _, _, _, ix, iy, zi, jx, jy, zj, kx, ky, zk = _load(
        screen, faces, pixel, face, edge, n - 1, follows, vertices, size
    )
    _, distance = _along(ix, iy, jx, jy)
    hidden = tl.where(follows, 1.0 - distance / margin, 0.0)
    tl.store(weights + n, tl.where(real, coverage - hidden, 0.0), mask=inside)


@triton.jit
@no_type_check
def evaluate_backward(
    screen,
    faces,
    pixel,
    face,
    edge,
    vertices,
    count,
    size,
    margin,
    grad_weights,
    grad_barycentric,
    grad_alpha,
    grad_depth,
    grad_screen,
    HAS_W: tl.constexpr,
    HAS_B: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_D: tl.constexpr,
    PERSPECTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the derivative of :func:`evaluate`; ``numba_interpolation`` explains the steps."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    real = tl.load(pixel + n, mask=inside, other=-1) >= 0
    at, is_crisp, e, oi, oj, ok, ix, iy, zi, jx, jy, zj, kx, ky, zk = _load(
        screen, faces, pixel, face, edge, n, real, vertices, size
    )
    dx, dy = jx - ix, jy - iy
    square = dx * dx + dy * dy
    t, distance = _along(ix, iy, jx, jy)
    ei, ej, ek = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
    total = ei + ej + ek
    wi = tl.where(is_crisp, ei / total, 1.0 - t)
    wj = tl.where(is_crisp, ej / total, t)
    wk = tl.where(is_crisp, ek / total, 0.0)

    gi, gj, gk = tl.zeros_like(t), tl.zeros_like(t), tl.zeros_like(t)
    gzi, gzj, gzk = tl.zeros_like(t), tl.zeros_like(t), tl.zeros_like(t)
    if HAS_B:
        gi = tl.load(grad_barycentric + 3 * n + (e + 1) % 3, mask=real, other=0.0)
        gj = tl.load(grad_barycentric + 3 * n + (e + 2) % 3, mask=real, other=0.0)
        gk = tl.load(grad_barycentric + 3 * n + e, mask=real, other=0.0)
    qi, qj, qk, scale = tl.zeros_like(t) + 1.0, tl.zeros_like(t) + 1.0, tl.zeros_like(t) + 1.0, tl.zeros_like(t) + 1.0
    if PERSPECTIVE:
        qi, qj, qk = 1.0 / zi, 1.0 / zj, 1.0 / zk
        scale = 1.0 / (wi * qi + wj * qj + wk * qk)
    bi, bj, bk = wi * qi * scale, wj * qj * scale, wk * qk * scale
    if HAS_D:
        g = tl.load(grad_depth + at, mask=real & is_crisp, other=0.0)
        gi, gj, gk = gi + g * zi, gj + g * zj, gk + g * zk
        gzi, gzj, gzk = g * bi, g * bj, g * bk
    if PERSPECTIVE:
        mean = gi * bi + gj * bj + gk * bk
        gi, gj, gk = (gi - mean) * scale, (gj - mean) * scale, (gk - mean) * scale
        gzi, gzj, gzk = gzi - gi * wi * qi * qi, gzj - gj * wj * qj * qj, gzk - gk * wk * qk * qk
        gi, gj, gk = gi * qi, gj * qj, gk * qk

    mean = gi * wi + gj * wj + gk * wk
    ci, cj, ck = (gi - mean) / total, (gj - mean) / total, (gk - mean) / total
    gt = tl.where((t > 0) & (t < 1), gj - gi, 0.0) / square
    mx, my = ix + 2 * t * dx, iy + 2 * t * dy
    g = tl.zeros_like(t)
    last = tl.load(pixel + n + 1, mask=n + 1 < count, other=-1) != at
    if HAS_W:
        g += tl.load(grad_weights + n, mask=real, other=0.0)
        g -= tl.load(grad_weights + n + 1, mask=real & (n + 1 < count) & ~last, other=0.0)
    if HAS_A:
        g += tl.load(grad_alpha + at, mask=real & last, other=0.0)
    g = tl.where(distance > 0, -g / (margin * tl.maximum(distance, 1e-30)), 0.0)
    rx, ry = ix + t * dx, iy + t * dy
    soft_ix, soft_iy = gt * (mx - dx) + (1 - t) * g * rx, gt * (my - dy) + (1 - t) * g * ry
    soft_jx, soft_jy = -gt * mx + t * g * rx, -gt * my + t * g * ry

    tl.atomic_add(grad_screen + oi, tl.where(is_crisp, ck * jy - cj * ky, soft_ix), mask=real)
    tl.atomic_add(grad_screen + oi + 1, tl.where(is_crisp, cj * kx - ck * jx, soft_iy), mask=real)
    tl.atomic_add(grad_screen + oi + 2, gzi, mask=real)
    tl.atomic_add(grad_screen + oj, tl.where(is_crisp, ci * ky - ck * iy, soft_jx), mask=real)
    tl.atomic_add(grad_screen + oj + 1, tl.where(is_crisp, ck * ix - ci * kx, soft_jy), mask=real)
    tl.atomic_add(grad_screen + oj + 2, gzj, mask=real)
    tl.atomic_add(grad_screen + ok, cj * iy - ci * jy, mask=real & is_crisp)
    tl.atomic_add(grad_screen + ok + 1, ci * jx - cj * ix, mask=real & is_crisp)
    tl.atomic_add(grad_screen + ok + 2, gzk, mask=real & is_crisp)


@triton.jit
@no_type_check
def _uv(faces, uvs, barycentric, f, n, real):
    u, v = tl.zeros_like(n).to(tl.float32), tl.zeros_like(n).to(tl.float32)
    for i in tl.static_range(3):
        corner = tl.load(faces + 3 * f + i, mask=real, other=0)
        w = tl.load(barycentric + 3 * n + i, mask=real, other=0.0)
        u += w * tl.load(uvs + 2 * corner, mask=real, other=0.0)
        v += w * tl.load(uvs + 2 * corner + 1, mask=real, other=0.0)
    return u, v


@triton.jit
@no_type_check
def _texel(u, size):
    """Return the texels on both sides of u in [0, 1], the fraction between them, and its derivative."""
    x = u * size - 0.5
    clamped = tl.minimum(tl.maximum(x, 0.0), size - 1.0)
    low = tl.minimum(clamped.to(tl.int32), tl.maximum(size - 2, 0))
    scale = tl.where((x >= 0.0) & (x <= size - 1.0), size + 0.0, 0.0)
    return low, tl.minimum(low + 1, size - 1), clamped - low, scale


@triton.jit
@no_type_check
def _load_texture_fragment(faces, pixel, face, uvs, weights, barycentric, n, real, size, height, width):
    """Load a fragment: its image, pixel, face and weight, and its texels along x and y with fractions and derivatives."""
    at = tl.load(pixel + n, mask=real, other=0)
    f = tl.load(face + n, mask=real, other=0)
    weight = tl.load(weights + n, mask=real, other=0.0)
    b, at = at // (size * size), at % (size * size)
    u, v = _uv(faces, uvs, barycentric, f, n, real)
    left, right, fx, scale_x = _texel(u, width)
    top, bottom, fy, scale_y = _texel(v, height)
    return b, at, f, weight, left, right, fx, scale_x, top, bottom, fy, scale_y


@triton.jit
@no_type_check
def texture_splat(
    faces,
    pixel,
    face,
    uvs,
    weights,
    barycentric,
    texture,
    count,
    size,
    channels,
    height,
    width,
    image,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    real = tl.load(pixel + n, mask=inside, other=-1) >= 0
    b, at, _, weight, left, right, fx, _, top, bottom, fy, _ = _load_texture_fragment(
        faces, pixel, face, uvs, weights, barycentric, n, real, size, height, width
    )
    for c in range(channels):
        plane = texture + (b * channels + c) * height * width
        above = tl.load(plane + top * width + left, mask=real, other=0.0)
        above += (tl.load(plane + top * width + right, mask=real, other=0.0) - above) * fx
        below = tl.load(plane + bottom * width + left, mask=real, other=0.0)
        below += (tl.load(plane + bottom * width + right, mask=real, other=0.0) - below) * fx
        value = weight * (above + (below - above) * fy)
        tl.atomic_add(image + (b * channels + c) * size * size + at, value, mask=real)


@triton.jit
@no_type_check
def texture_backward(
    faces,
    pixel,
    face,
    uvs,
    weights,
    barycentric,
    texture,
    count,
    size,
    channels,
    height,
    width,
    grad,
    grad_weights,
    grad_barycentric,
    grad_texture,
    NEEDS_TEXTURE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    real = tl.load(pixel + n, mask=inside, other=-1) >= 0
    b, at, f, weight, left, right, fx, scale_x, top, bottom, fy, scale_y = _load_texture_fragment(
        faces, pixel, face, uvs, weights, barycentric, n, real, size, height, width
    )
    grad_weight, gu, gv = tl.zeros_like(fx), tl.zeros_like(fx), tl.zeros_like(fx)
    for c in range(channels):
        offset = (b * channels + c) * height * width
        g = tl.load(grad + (b * channels + c) * size * size + at, mask=real, other=0.0)
        above = tl.load(texture + offset + top * width + left, mask=real, other=0.0)
        below = tl.load(texture + offset + bottom * width + left, mask=real, other=0.0)
        upper = tl.load(texture + offset + top * width + right, mask=real, other=0.0) - above
        lower = tl.load(texture + offset + bottom * width + right, mask=real, other=0.0) - below
        above, below = above + upper * fx, below + lower * fx
        grad_weight += g * (above + (below - above) * fy)
        gu += g * (upper + (lower - upper) * fy)
        gv += g * (below - above)
        if NEEDS_TEXTURE:
            g = g * weight
            lower, upper = g * fy, g - g * fy
            tl.atomic_add(grad_texture + offset + top * width + left, upper - upper * fx, mask=real)
            tl.atomic_add(grad_texture + offset + top * width + right, upper * fx, mask=real)
            tl.atomic_add(grad_texture + offset + bottom * width + left, lower - lower * fx, mask=real)
            tl.atomic_add(grad_texture + offset + bottom * width + right, lower * fx, mask=real)
    tl.store(grad_weights + n, grad_weight, mask=inside)
    gu, gv = gu * weight * scale_x, gv * weight * scale_y
    for i in tl.static_range(3):
        corner = tl.load(faces + 3 * f + i, mask=real, other=0)
        g = gu * tl.load(uvs + 2 * corner, mask=real, other=0.0) + gv * tl.load(
            uvs + 2 * corner + 1, mask=real, other=0.0
        )
        tl.store(grad_barycentric + 3 * n + i, g, mask=inside)
