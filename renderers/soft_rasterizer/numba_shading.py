"""CPU kernels that shade fragments: vertex attributes, textures and vertex normals.

The specifications are in :mod:`renderers.soft_rasterizer.shading` and :mod:`renderers.meshes.vertex_normals`.
"""

# ruff: noqa: ANN001, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.numba_jit import compiled
from renderers.soft_rasterizer import shading
from renderers.soft_rasterizer.reference import Fragments


def splat_attributes(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    attributes: Float[Tensor, "B V C"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """As :func:`renderers.soft_rasterizer.shading.splat_attributes`."""
    return _SplatAttributes.apply(weights, barycentric, attributes, faces, fragments, size)


def splat_texture(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    uvs: Float[Tensor, "V 2"],
    texture: Float[Tensor, "B C H W"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """As :func:`renderers.soft_rasterizer.shading.splat_texture`, which also serves UVs that need a gradient."""
    if uvs.requires_grad:
        return shading.splat_texture(fragments, weights, barycentric, faces, uvs, texture, size)
    return _SplatTexture.apply(weights, barycentric, texture, uvs, faces, fragments, size)


def vertex_normals(vertices: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "B V 3"]:
    """As :func:`renderers.meshes.vertex_normals.vertex_normals`."""
    return F.normalize(_AreaNormals.apply(vertices, faces), dim=-1)


class _SplatAttributes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        barycentric: Tensor,
        attributes: Tensor,
        faces: Tensor,
        fragments: Fragments,
        size: int,
    ) -> Tensor:
        attributes = attributes.contiguous()
        image = attributes.new_zeros(attributes.shape[0], attributes.shape[2], size * size)
        ctx.save_for_backward(weights, barycentric, attributes)
        ctx.indices = (faces.numpy(), fragments.pixel.numpy(), fragments.face.numpy())
        _attributes_forward(*ctx.indices, *_numpy(weights, barycentric, attributes), image.numpy())
        return image.view(*image.shape[:2], size, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, barycentric, attributes = ctx.saved_tensors
        grads = [torch.empty_like(weights), torch.empty_like(barycentric)]
        wanted = ctx.needs_input_grad[2]
        grads.append(torch.zeros_like(attributes) if wanted else attributes.new_empty(0, 0, 0))
        image = grad.contiguous().flatten(2).numpy()
        _attributes_backward(*ctx.indices, *_numpy(weights, barycentric, attributes), image, *_numpy(*grads))
        return grads[0], grads[1], grads[2] if wanted else None, None, None, None


class _SplatTexture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        barycentric: Tensor,
        texture: Tensor,
        uvs: Tensor,
        faces: Tensor,
        fragments: Fragments,
        size: int,
    ) -> Tensor:
        texture = texture.contiguous()
        image = texture.new_zeros(*texture.shape[:2], size * size)
        ctx.save_for_backward(weights, barycentric, texture)
        ctx.indices = (faces.numpy(), fragments.pixel.numpy(), fragments.face.numpy(), uvs.contiguous().numpy())
        _texture_forward(*ctx.indices, *_numpy(weights, barycentric, texture), image.numpy())
        return image.view(*image.shape[:2], size, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, barycentric, texture = ctx.saved_tensors
        grads = [torch.empty_like(weights), torch.empty_like(barycentric)]
        wanted = ctx.needs_input_grad[2]
        grads.append(torch.zeros_like(texture) if wanted else texture.new_empty(0, 0, 0, 0))
        image = grad.contiguous().flatten(2).numpy()
        _texture_backward(*ctx.indices, *_numpy(weights, barycentric, texture), image, *_numpy(*grads))
        return grads[0], grads[1], grads[2] if wanted else None, None, None, None, None


class _AreaNormals(torch.autograd.Function):
    """Per vertex the sum of its triangles' normals, each as long as twice the triangle's area."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, faces: Tensor) -> Tensor:
        vertices = vertices.contiguous()
        ctx.save_for_backward(vertices, faces)
        normals = torch.zeros_like(vertices)
        _normals_forward(*_numpy(vertices, faces, normals))
        return normals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces = ctx.saved_tensors
        grad_vertices = torch.zeros_like(vertices)
        _normals_backward(*_numpy(vertices, faces, grad.contiguous(), grad_vertices))
        return grad_vertices, None


def _numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


@compiled
@no_type_check
def _attributes_forward(faces, pixel, face, weights, barycentric, attributes, image):
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + image.shape[2]:  # fragments come in order of their pixels
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
    wanted = grad_attributes.shape[0] > 0
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + grad.shape[2]:  # fragments come in order of their pixels
            b, start = b + 1, start + grad.shape[2]
        at, f = pixel[n] - start, face[n]
        grad_weights[n] = 0
        for i in range(3):
            along = weights[n] * 0
            for c in range(grad.shape[1]):
                along += grad[b, c, at] * attributes[b, faces[f, i], c]
                if wanted:
                    grad_attributes[b, faces[f, i], c] += weights[n] * barycentric[n, i] * grad[b, c, at]
            grad_barycentric[n, i] = weights[n] * along
            grad_weights[n] += barycentric[n, i] * along


@compiled
@no_type_check
def _texture_forward(faces, pixel, face, uvs, weights, barycentric, texture, image):
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + image.shape[2]:  # fragments come in order of their pixels
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
    kind = texture.dtype.type
    wanted = grad_texture.shape[0] > 0
    b, start = 0, 0
    for n in range(pixel.shape[0]):
        while pixel[n] >= start + grad.shape[2]:  # fragments come in order of their pixels
            b, start = b + 1, start + grad.shape[2]
        at, f = pixel[n] - start, face[n]
        u, v = _interpolated_uv(faces, uvs, barycentric, f, n)
        left, right, fx, width = _texel(u, texture.shape[3])
        top, bottom, fy, height = _texel(v, texture.shape[2])
        along, gu, gv = kind(0), kind(0), kind(0)
        for c in range(grad.shape[1]):
            g = grad[b, c, at]
            above, below = texture[b, c, top, left], texture[b, c, bottom, left]
            upper, lower = texture[b, c, top, right] - above, texture[b, c, bottom, right] - below
            above, below = above + upper * fx, below + lower * fx
            along += g * (above + (below - above) * fy)
            gu += g * (upper + (lower - upper) * fy)
            gv += g * (below - above)
            if wanted:
                g *= weights[n]
                lower, upper = g * fy, g - g * fy
                grad_texture[b, c, top, left] += upper - upper * fx
                grad_texture[b, c, top, right] += upper * fx
                grad_texture[b, c, bottom, left] += lower - lower * fx
                grad_texture[b, c, bottom, right] += lower * fx
        grad_weights[n] = along
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
    """The texels on both sides of u in [0, 1], where between them it lies, and the derivative of that."""
    kind = type(u)
    x = u * kind(size) - kind(0.5)
    scale = kind(size)
    if not kind(0) <= x <= kind(size - 1):  # beyond the outermost centres the border repeats
        x = min(max(x, kind(0)), kind(size - 1))
        scale = kind(0)
    low = min(int(x), max(size - 2, 0))
    return low, min(low + 1, size - 1), x - kind(low), scale


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
    """The two sides of a triangle that leave its first corner."""
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
