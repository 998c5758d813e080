"""CPU kernels for shading: vertex attributes, textures and vertex normals.

The specifications are in :mod:`renderers.soft_rasterizer.shading` and :mod:`renderers.meshes.vertex_normals`.
"""

# ruff: noqa: ANN001, ANN202 (numba infers the kernels' types)

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.numba_jit import as_arrays, compiled
from renderers.soft_rasterizer.autograd import SplatKernels
from renderers.soft_rasterizer.reference import Fragments


def vertex_normals(vertices: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "B V 3"]:
    """Compute :func:`renderers.meshes.vertex_normals.vertex_normals`."""
    return F.normalize(_AreaNormals.apply(vertices, faces), dim=-1)


class _AreaNormals(torch.autograd.Function):
    """For each vertex, the sum of its triangles' normals, each as long as twice the triangle's area."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, faces: Tensor) -> Tensor:
        vertices = vertices.contiguous()
        ctx.save_for_backward(vertices, faces)
        normals = torch.zeros_like(vertices)
        _normals_forward(*as_arrays(vertices, faces, normals))
        return normals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces = ctx.saved_tensors
        grad_vertices = torch.zeros_like(vertices)
        _normals_backward(*as_arrays(vertices, faces, grad.contiguous(), grad_vertices))
        return grad_vertices, None


def _splat_forward(kernel: Callable[..., None], indices: tuple[Tensor, ...], *tensors: Tensor) -> None:
    """Run ``kernel`` on arrays, the last of which is the image with its pixels flattened."""
    *inputs, image = tensors
    kernel(*as_arrays(*indices, *inputs, image.flatten(2)))


def _splat_backward(
    kernel: Callable[..., None],
    indices: tuple[Tensor, ...],
    weights: Tensor,
    barycentric: Tensor,
    values: Tensor,
    grad: Tensor,
    grad_weights: Tensor,
    grad_barycentric: Tensor,
    grad_values: Tensor | None,
) -> None:
    if grad_values is None:  # the kernels recognize an empty array
        grad_values = values.new_empty([0] * values.dim())
    grads = grad.flatten(2), grad_weights, grad_barycentric, grad_values
    kernel(*as_arrays(*indices, weights, barycentric, values, *grads))


@compiled
@no_type_check
def _attributes_forward(faces, pixel, face, weights, barycentric, attributes, image):
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + image.shape[2]:  # fragments are sorted by pixel
            b, start = b + 1, start + image.shape[2]
        at, f = pixel[n] - start, face[n]
        for c in range(image.shape[1]):
            value = barycentric[n, 0] * attributes[b, faces[f, 0], c]
            value += barycentric[n, 1] * attributes[b, faces[f, 1], c]
            value += barycentric[n, 2] * attributes[b, faces[f, 2], c]
            image[b, c, at] += weights[n] * value


@compiled
@no_type_check
def _attributes_backward(
    faces, pixel, face, weights, barycentric, attributes, grad, grad_weights, grad_barycentric, grad_attributes
):
    needs_values = grad_attributes.shape[0] > 0
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + grad.shape[2]:  # fragments are sorted by pixel
            b, start = b + 1, start + grad.shape[2]
        at, f = pixel[n] - start, face[n]
        grad_weights[n] = 0
        for i in range(3):
            grad_weight = weights[n] * 0
            for c in range(grad.shape[1]):
                grad_weight += grad[b, c, at] * attributes[b, faces[f, i], c]
                if needs_values:
                    grad_attributes[b, faces[f, i], c] += weights[n] * barycentric[n, i] * grad[b, c, at]
            grad_barycentric[n, i] = weights[n] * grad_weight
            grad_weights[n] += barycentric[n, i] * grad_weight


@compiled
@no_type_check
def _texture_forward(faces, pixel, face, uvs, weights, barycentric, texture, image):
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + image.shape[2]:  # fragments are sorted by pixel
            b, start = b + 1, start + image.shape[2]
        at, f = pixel[n] - start, face[n]
        u, v = _interpolated_uv(faces, uvs, barycentric, f, n)
        left, right, fx, _ = _texel(u, texture.shape[3])
        top, bottom, fy, _ = _texel(v, texture.shape[2])
        for c in range(image.shape[1]):
            above = texture[b, c, top, left]
            above += (texture[b, c, top, right] - above) * fx
            below = texture[b, c, bottom, left]
            below += (texture[b, c, bottom, right] - below) * fx
            image[b, c, at] += weights[n] * (above + (below - above) * fy)


@compiled
@no_type_check
def _texture_backward(
    faces, pixel, face, uvs, weights, barycentric, texture, grad, grad_weights, grad_barycentric, grad_texture
):
    dtype = texture.dtype.type
    needs_values = grad_texture.shape[0] > 0
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + grad.shape[2]:  # fragments are sorted by pixel
            b, start = b + 1, start + grad.shape[2]
        at, f = pixel[n] - start, face[n]
        u, v = _interpolated_uv(faces, uvs, barycentric, f, n)
        left, right, fx, width = _texel(u, texture.shape[3])
        top, bottom, fy, height = _texel(v, texture.shape[2])
        grad_weight, gu, gv = dtype(0), dtype(0), dtype(0)
        for c in range(grad.shape[1]):
            g = grad[b, c, at]
            above, below = texture[b, c, top, left], texture[b, c, bottom, left]
            upper, lower = texture[b, c, top, right] - above, texture[b, c, bottom, right] - below
            above, below = above + upper * fx, below + lower * fx
            grad_weight += g * (above + (below - above) * fy)
            gu += g * (upper + (lower - upper) * fy)
            gv += g * (below - above)
            if needs_values:
                g *= weights[n]
                lower, upper = g * fy, g - g * fy
                grad_texture[b, c, top, left] += upper - upper * fx
                grad_texture[b, c, top, right] += upper * fx
                grad_texture[b, c, bottom, left] += lower - lower * fx
                grad_texture[b, c, bottom, right] += lower * fx
        grad_weights[n] = grad_weight
        gu, gv = gu * weights[n] * width, gv * weights[n] * height
        for i in range(3):
            grad_barycentric[n, i] = gu * uvs[faces[f, i], 0] + gv * uvs[faces[f, i], 1]


@compiled
@no_type_check
def _interpolated_uv(faces, uvs, barycentric, f, n):
    u = barycentric[n, 0] * uvs[faces[f, 0], 0]
    v = barycentric[n, 0] * uvs[faces[f, 0], 1]
    for i in range(1, 3):
        u += barycentric[n, i] * uvs[faces[f, i], 0]
        v += barycentric[n, i] * uvs[faces[f, i], 1]
    return u, v


@compiled
@no_type_check
def _texel(u, size):
    """Return the texels on both sides of u in [0, 1], the fraction between them, and its derivative."""
    dtype = type(u)
    x = u * dtype(size) - dtype(0.5)
    scale = dtype(size)
    if not dtype(0) <= x <= dtype(size - 1):  # the border repeats beyond the outermost texel centres
        x = min(max(x, dtype(0)), dtype(size - 1))
        scale = dtype(0)
    low = min(int(x), max(size - 2, 0))
    return low, min(low + 1, size - 1), x - dtype(low), scale


@compiled
@no_type_check
def _normals_forward(vertices, faces, normals):
    for b in range(vertices.shape[0]):
        for f in range(faces.shape[0]):
            u, v = _sides(vertices, faces, b, f)
            normal = _cross(u, v)
            for corner in range(3):
                for k in range(3):
                    normals[b, faces[f, corner], k] += normal[k]


@compiled
@no_type_check
def _normals_backward(vertices, faces, grad, grad_vertices):
    for b in range(vertices.shape[0]):
        for f in range(faces.shape[0]):
            p, q, r = faces[f, 0], faces[f, 1], faces[f, 2]
            u, v = _sides(vertices, faces, b, f)
            g = (
                grad[b, p, 0] + grad[b, q, 0] + grad[b, r, 0],
                grad[b, p, 1] + grad[b, q, 1] + grad[b, r, 1],
                grad[b, p, 2] + grad[b, q, 2] + grad[b, r, 2],
            )
            gu, gv = _cross(v, g), _cross(g, u)
            for k in range(3):
                grad_vertices[b, p, k] -= gu[k] + gv[k]
                grad_vertices[b, q, k] += gu[k]
                grad_vertices[b, r, k] += gv[k]


@compiled
@no_type_check
def _sides(vertices, faces, b, f):
    """Return the two sides of a triangle that start at its first corner."""
    p, q, r = faces[f, 0], faces[f, 1], faces[f, 2]
    x, y, z = vertices[b, p, 0], vertices[b, p, 1], vertices[b, p, 2]
    return (
        (vertices[b, q, 0] - x, vertices[b, q, 1] - y, vertices[b, q, 2] - z),
        (vertices[b, r, 0] - x, vertices[b, r, 1] - y, vertices[b, r, 2] - z),
    )


@compiled
@no_type_check
def _cross(u, v):
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


_attributes = SplatKernels(partial(_splat_forward, _attributes_forward), partial(_splat_backward, _attributes_backward))
splat_texture = SplatKernels(
    partial(_splat_forward, _texture_forward), partial(_splat_backward, _texture_backward)
).splat_texture


def splat_attributes(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    attributes: Float[Tensor, "B V C"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """Compute :func:`renderers.soft_rasterizer.shading.splat_attributes`."""
    indices = (faces.contiguous(), fragments.pixel, fragments.face)
    return _attributes.splat(indices, weights, barycentric, attributes, (*attributes.shape[::2], size, size))
