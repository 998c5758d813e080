"""CPU kernels for projection and for step 2 of the soft rasterizer: weights and barycentric coordinates of fragments.

The formulas are in :mod:`renderers.soft_rasterizer.reference`; the backward pass is their analytic derivative.
"""

# ruff: noqa: ANN001, ANN202 (numba infers the kernels' types)

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.numba_jit import as_arrays, compiled
from renderers.soft_rasterizer.autograd import EvaluationKernels
from renderers.soft_rasterizer.reference import NEAR, Fragments, RasterSettings


def project(
    vertices: Float[Tensor, "B V 3"], matrix: Float[Tensor, "B 3 3"], distance: float, settings: RasterSettings
) -> Float[Tensor, "B V 3"]:
    """Compute :func:`renderers.soft_rasterizer.reference.project`."""
    return _Project.apply(vertices, matrix, distance, settings)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, matrix: Tensor, distance: float, settings: RasterSettings) -> Tensor:
        vertices, matrix = vertices.contiguous(), matrix.contiguous()
        screen = torch.empty_like(vertices)
        dtype = vertices.detach().numpy().dtype.type
        ctx.constants = dtype(NEAR), dtype(settings.size / 2), settings.perspective
        _project_forward(*as_arrays(vertices, matrix), dtype(distance), *ctx.constants, screen.numpy())
        ctx.save_for_backward(vertices, matrix, screen)
        return screen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vertices, matrix, screen = ctx.saved_tensors
        grad_vertices, grad_matrix = torch.empty_like(vertices), torch.zeros_like(matrix)
        _project_backward(
            *as_arrays(vertices, matrix, screen),
            *ctx.constants,
            *as_arrays(grad.contiguous(), grad_vertices, grad_matrix),
        )
        return grad_vertices, grad_matrix, None, None


def _evaluate_forward(
    screen: Tensor,
    faces: Tensor,
    fragments: Fragments,
    settings: RasterSettings,
    weights: Tensor,
    barycentric: Tensor,
    alpha: Tensor,
    depth: Tensor,
) -> None:
    arguments = _evaluation_arguments(screen, faces, fragments, settings)
    _forward(*arguments, *as_arrays(weights, barycentric, alpha.view(-1), depth.view(-1)))


def _evaluate_backward(
    screen: Tensor,
    faces: Tensor,
    fragments: Fragments,
    settings: RasterSettings,
    grads: list[Tensor | None],
    grad_screen: Tensor,
) -> None:
    shapes = ((0,), (0, 3), (0,), (0,))  # an absent gradient is an empty array
    arrays = [
        (screen.new_empty(shape) if grad is None else grad.reshape(-1, *shape[1:])).numpy()
        for grad, shape in zip(grads, shapes, strict=True)
    ]
    _backward(*_evaluation_arguments(screen, faces, fragments, settings), *arrays, grad_screen.numpy())


def _evaluation_arguments(
    screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings
) -> tuple[Any, ...]:
    arrays = as_arrays(screen, faces, fragments.pixel, fragments.face, fragments.edge)
    return *arrays, settings.size, arrays[0].dtype.type(settings.margin), settings.perspective


evaluate_fragments = EvaluationKernels(_evaluate_forward, _evaluate_backward).evaluate_fragments


@compiled
@no_type_check
def _project_forward(vertices, matrix, distance, near, middle, perspective, screen):
    for b in range(vertices.shape[0]):
        m = matrix[b]
        for v in range(vertices.shape[1]):
            x, y, z = vertices[b, v, 0], vertices[b, v, 1], vertices[b, v, 2]
            depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + distance
            scale = screen.dtype.type(1) / max(depth, near) if perspective else screen.dtype.type(1)
            screen[b, v, 0] = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z) * scale + middle
            screen[b, v, 1] = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z) * scale + middle
            screen[b, v, 2] = depth


@compiled
@no_type_check
def _project_backward(vertices, matrix, screen, near, middle, perspective, grad, grad_vertices, grad_matrix):
    dtype = screen.dtype.type
    for b in range(vertices.shape[0]):
        m = matrix[b]
        for v in range(vertices.shape[1]):
            scale, gx, gy, gz = dtype(1), grad[b, v, 0], grad[b, v, 1], grad[b, v, 2]
            if gx == 0 and gy == 0 and gz == 0:  # most vertices on a surface's hidden side
                grad_vertices[b, v] = dtype(0)
                continue
            if perspective:
                scale = dtype(1) / max(screen[b, v, 2], near)
                if screen[b, v, 2] > near:
                    gz -= (gx * (screen[b, v, 0] - middle) + gy * (screen[b, v, 1] - middle)) * scale
            gx, gy = gx * scale, gy * scale
            for k in range(3):
                grad_vertices[b, v, k] = gx * m[0, k] + gy * m[1, k] + gz * m[2, k]
                grad_matrix[b, 0, k] += gx * vertices[b, v, k]
                grad_matrix[b, 1, k] += gy * vertices[b, v, k]
                grad_matrix[b, 2, k] += gz * vertices[b, v, k]


@compiled
@no_type_check
def _forward(screen, faces, pixel, face, edge, size, margin, perspective, weights, barycentric, alpha, depth):
    dtype = screen.dtype.type
    zero, one = dtype(0), dtype(1)
    hidden = zero
    b, row = 0, 0
    for n in range(pixel.shape[0]):
        b, row = _advance(pixel[n], size, b, row)
        px, py = _centre(pixel[n], size, b, row, dtype)
        e = max(edge[n], 0)
        ci, cj, ck = faces[face[n], (e + 1) % 3], faces[face[n], (e + 2) % 3], faces[face[n], e]
        ix, iy, zi = screen[b, ci, 0] - px, screen[b, ci, 1] - py, screen[b, ci, 2]
        jx, jy, zj = screen[b, cj, 0] - px, screen[b, cj, 1] - py, screen[b, cj, 2]
        kx, ky, zk = screen[b, ck, 0] - px, screen[b, ck, 1] - py, screen[b, ck, 2]
        if edge[n] < 0:
            coverage = one
            wi, wj, wk = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
        else:
            dx, dy = jx - ix, jy - iy
            t = min(max(-(ix * dx + iy * dy) / (dx * dx + dy * dy), zero), one)
            coverage = one - math.sqrt((ix + t * dx) ** 2 + (iy + t * dy) ** 2) / margin
            wi, wj, wk = one - t, t, zero
        if perspective:
            wi, wj, wk = wi / zi, wj / zj, wk / zk
        total = wi + wj + wk
        wi, wj, wk = wi / total, wj / total, wk / total
        barycentric[n, (e + 1) % 3], barycentric[n, (e + 2) % 3], barycentric[n, e] = wi, wj, wk
        if edge[n] < 0:
            depth[pixel[n]] = wi * zi + wj * zj + wk * zk
        alpha[pixel[n]] = coverage  # the last fragment of a pixel has the greatest coverage
        if n == 0 or pixel[n] != pixel[n - 1]:
            hidden = zero
        weights[n] = coverage - hidden
        hidden = coverage


@compiled
@no_type_check
def _backward(
    screen,
    faces,
    pixel,
    face,
    edge,
    size,
    margin,
    perspective,
    grad_weights,
    grad_barycentric,
    grad_alpha,
    grad_depth,
    grad_screen,
):
    dtype = screen.dtype.type
    zero, one, two = dtype(0), dtype(1), dtype(2)
    has_weights, has_barycentric = grad_weights.shape[0] > 0, grad_barycentric.shape[0] > 0
    has_alpha, has_depth = grad_alpha.shape[0] > 0, grad_depth.shape[0] > 0
    b, row = 0, 0
    for n in range(pixel.shape[0]):
        b, row = _advance(pixel[n], size, b, row)
        px, py = _centre(pixel[n], size, b, row, dtype)
        e = max(edge[n], 0)
        i, j = (e + 1) % 3, (e + 2) % 3
        ci, cj, ck = faces[face[n], i], faces[face[n], j], faces[face[n], e]
        ix, iy, zi = screen[b, ci, 0] - px, screen[b, ci, 1] - py, screen[b, ci, 2]
        jx, jy, zj = screen[b, cj, 0] - px, screen[b, cj, 1] - py, screen[b, cj, 2]
        kx, ky, zk = screen[b, ck, 0] - px, screen[b, ck, 1] - py, screen[b, ck, 2]

        # Barycentric coordinates in screen space.
        dx, dy = jx - ix, jy - iy
        t, square, total = zero, zero, one
        if edge[n] < 0:
            wi, wj, wk = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
            total = wi + wj + wk
            wi, wj, wk = wi / total, wj / total, wk / total
        else:
            square = dx * dx + dy * dy
            t = min(max(-(ix * dx + iy * dy) / square, zero), one)
            wi, wj, wk = one - t, t, zero

        # Gradients of perspective-correct coordinates and of depth = sum b z, to screen-space coordinates.
        gi, gj, gk = zero, zero, zero
        if has_barycentric:
            gi, gj, gk = grad_barycentric[n, i], grad_barycentric[n, j], grad_barycentric[n, e]
        gzi, gzj, gzk = zero, zero, zero
        qi, qj, qk, scale = one, one, one, one
        if perspective:
            qi, qj, qk = one / zi, one / zj, one / zk
            scale = one / (wi * qi + wj * qj + wk * qk)
        bi, bj, bk = wi * qi * scale, wj * qj * scale, wk * qk * scale
        if has_depth and edge[n] < 0:
            g = grad_depth[pixel[n]]
            gi, gj, gk = gi + g * zi, gj + g * zj, gk + g * zk
            gzi, gzj, gzk = g * bi, g * bj, g * bk
        if perspective:
            mean = gi * bi + gj * bj + gk * bk
            gi, gj, gk = (gi - mean) * scale, (gj - mean) * scale, (gk - mean) * scale
            gzi, gzj, gzk = gzi - gi * wi * qi * qi, gzj - gj * wj * qj * qj, gzk - gk * wk * qk * qk
            gi, gj, gk = gi * qi, gj * qj, gk * qk

        if edge[n] < 0:
            # Coordinates are edge functions divided by their sum; coverage is the constant 1.
            mean = gi * wi + gj * wj + gk * wk
            gi, gj, gk = (gi - mean) / total, (gj - mean) / total, (gk - mean) / total
            grad_screen[b, ci, 0] += gk * jy - gj * ky
            grad_screen[b, ci, 1] += gj * kx - gk * jx
            grad_screen[b, cj, 0] += gi * ky - gk * iy
            grad_screen[b, cj, 1] += gk * ix - gi * kx
            grad_screen[b, ck, 0] += gj * iy - gi * jy
            grad_screen[b, ck, 1] += gi * jx - gj * ix
            grad_screen[b, ck, 2] += gzk
        else:
            gt = gj - gi if zero < t < one else zero
            gt /= square
            mx, my = ix + two * t * dx, iy + two * t * dy
            gix, giy, gjx, gjy = gt * (mx - dx), gt * (my - dy), -gt * mx, -gt * my
            # Coverage is added to this fragment's weight and subtracted from the next one's; the last one's is alpha. To
            # first order, moving the nearest point along its edge does not change the distance.
            g = zero
            last = n + 1 == pixel.shape[0] or pixel[n + 1] != pixel[n]
            if has_weights:
                g += grad_weights[n] if last else grad_weights[n] - grad_weights[n + 1]
            if has_alpha and last:
                g += grad_alpha[pixel[n]]
            rx, ry = ix + t * dx, iy + t * dy
            distance = math.sqrt(rx * rx + ry * ry)
            if distance > zero:
                g /= -margin * distance
                gix, giy = gix + (one - t) * g * rx, giy + (one - t) * g * ry
                gjx, gjy = gjx + t * g * rx, gjy + t * g * ry
            grad_screen[b, ci, 0] += gix
            grad_screen[b, ci, 1] += giy
            grad_screen[b, cj, 0] += gjx
            grad_screen[b, cj, 1] += gjy
        grad_screen[b, ci, 2] += gzi
        grad_screen[b, cj, 2] += gzj


@compiled
@no_type_check
def _advance(pixel, size, b, row):
    """Return the batch index and row of a pixel, given those of an earlier one; divisions would dominate the cost."""
    row_end = (b * size + row + 1) * size
    while pixel >= row_end:
        row_end += size
        row += 1
    while row >= size:
        row -= size
        b += 1
    return b, row


@compiled
@no_type_check
def _centre(pixel, size, b, row, dtype):
    return dtype(pixel - (b * size + row) * size) + dtype(0.5), dtype(row) + dtype(0.5)
