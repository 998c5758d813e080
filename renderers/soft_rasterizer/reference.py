"""The soft rasterizer in plain torch: the specification that every kernel is tested against (MeshGAN, section 5).

An image is a weighted sum of *fragments*. A fragment is one triangle at one pixel. It is *crisp* if the triangle covers
the pixel's centre; only the nearest crisp triangle counts (eqs. 6 to 8). It is *soft* if the centre is outside the
triangle, closer to it than the margin B, and no crisp fragment hides it (eq. 9). Rendering takes two steps:

1. :func:`find_fragments` determines each pixel's fragments and their order. It consists of comparisons: the result is
   integers and has no gradient.
2. :func:`evaluate_fragments` computes weights and barycentric coordinates of these fragments from the vertices. It is
   smooth, and autograd differentiates it.

**Weights.** A fragment covers ``coverage = 1 - d / B`` of its pixel (eq. 11 with its erratum), where d is the distance from
the pixel's centre to the triangle, so a crisp fragment covers all of it. A pixel's fragments are ordered from the nearest
to the crisp one. Coverages are nested: each fragment's weight is its coverage beyond that of all nearer fragments,

    weight_k = max(0, coverage_k - max_{j<k} coverage_j).

The soft weights sum to ``alpha_s = max_k (1 - d_k / B)``, the crisp fragment has weight ``(1 - alpha_s) alpha_c``, and the
background has the rest, ``(1 - alpha_s)(1 - alpha_c)``: eqs. 11 and 12. The soft image ``a_s`` is a weighted mean of the
soft attributes as in eq. 10. Its weights make the image continuous as triangles move: a triangle enters the margin with
weight 0, and when its edge reaches the centre it has replaced everything behind it, from both sides of the edge. With the
unweighted mean of eq. 10 the image would jump at both events. Fragments with weight 0 are left out.

Screen frame: x right and y down in pixels, (0, 0) at the image's top left corner; depth in world units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAR = 1e-3  # world units; triangles with a corner nearer than this, or behind the camera, are not rendered
THIN = 1e-4  # pixels; triangles of smaller height are degenerate and not rendered
CRISP = -1  # Fragments.edge of a triangle that covers the pixel's centre


@dataclass(frozen=True)
class RasterSettings:
    """Settings of the two steps.

    Args:
        size: height and width of the image in pixels.
        margin: B in pixels; 0 is the crisp renderer.
        depth_slope: lambda of eq. 9, world units per pixel.
        cull_backfaces: leave out triangles seen from behind (clockwise on the screen with y up).
        perspective: whether attributes are linear in 1/depth on the screen.
        exact: whether a GPU backend waits for the number of fragments, see
            :meth:`renderers.SoftRasterizer.without_waiting`.
    """

    size: int
    margin: float
    depth_slope: float
    cull_backfaces: bool
    perspective: bool
    exact: bool = True


@dataclass(frozen=True)
class Fragments:
    """N fragments, sorted by pixel, then from near to far; a crisp fragment is the last of its pixel.

    A backend may append padding, with weight and coordinates 0, so that N does not depend on the scene.

    Args:
        pixel: ``(N,)`` flat index into (batch, row, column), or -1 for padding.
        face: ``(N,)`` index into faces.
        edge: ``(N,)`` the edge that contains the point nearest to the pixel's centre, or -1 for a crisp fragment. Edge e
            is opposite to corner e.
    """

    pixel: Int[Tensor, " N"]
    face: Int[Tensor, " N"]
    edge: Int[Tensor, " N"]

    @classmethod
    def none(cls, device: torch.device) -> Fragments:
        """Return the fragments of a batch without meshes."""
        return cls(*(torch.zeros(0, dtype=torch.long, device=device) for _ in range(3)))


def project(
    vertices: Float[Tensor, "B V 3"], matrix: Float[Tensor, "B 3 3"], distance: float, settings: RasterSettings
) -> Float[Tensor, "B V 3"]:
    """Project world points to the screen frame: :meth:`renderers.Camera.project` in pixels.

    ``matrix`` maps a point to (pixels right, pixels down, depth minus ``distance``). Pixels are relative to the image's
    middle and, in perspective, multiplied by the depth. Points at or behind the camera's plane are divided by ``NEAR``, so
    that their (unused) coordinates have finite gradients.
    """
    x_y, z = (vertices @ matrix.mT).split([2, 1], -1)
    depth = z + distance
    if settings.perspective:
        x_y = x_y / depth.clamp(min=NEAR)
    return torch.cat([x_y + settings.size / 2, depth], -1)


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """Return the fragments with a positive weight, for vertices (x, y, depth) in the screen frame."""
    with torch.no_grad():
        parts = [_find_in_image(points, faces, settings) for points in screen]
    pixels = settings.size**2
    pixel = torch.cat([part.pixel + i * pixels for i, part in enumerate(parts)])
    return Fragments(pixel, torch.cat([part.face for part in parts]), torch.cat([part.edge for part in parts]))


def _find_in_image(screen: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    corners = screen[faces]
    candidate = torch.nonzero(_is_visible(corners, settings))[:, 0]
    pair_face, column, row = _pairs_in_boxes(corners, candidate, settings)
    pixel = row * settings.size + column
    corners = corners[pair_face]
    edge_function = _edge_functions(corners, torch.stack([column, row], -1))
    orientation = edge_function.new_tensor(1.0).copysign(_doubled_area(corners))
    signed = edge_function * orientation[:, None]  # positive on the triangle's side of each edge
    inside = (signed >= 0).all(-1)

    # Crisp: the smallest depth wins, and among equal depths the smallest face index, independent of order.
    index = torch.nonzero(inside)[:, 0]
    z = _interpolated_depth(_normalised(edge_function[index]), corners[index, :, 2], settings.perspective)
    nearest = torch.full((settings.size**2,), torch.inf, dtype=z.dtype, device=z.device)
    nearest = nearest.scatter_reduce(0, pixel[index], z, "amin")
    index = index[z == nearest[pixel[index]]]
    crisp_face = torch.full_like(nearest, faces.shape[0], dtype=torch.long)
    crisp_face = crisp_face.scatter_reduce(0, pixel[index], pair_face[index], "amin")
    crisp_pixel = torch.nonzero(nearest < torch.inf)[:, 0]
    crisp_face = crisp_face[crisp_pixel]
    if settings.margin == 0:
        return Fragments(crisp_pixel, crisp_face, torch.full_like(crisp_pixel, CRISP))

    # Soft: the triangle's point nearest to a centre outside it is on an edge that faces the centre.
    index = torch.nonzero(~inside)[:, 0]
    t, distance = _edge_distances(corners[index], torch.stack([column[index], row[index]], -1))
    distance, edge = distance.masked_fill(signed[index] >= 0, torch.inf).min(-1)
    t = t.gather(-1, edge[:, None])[:, 0]
    z = _interpolated_depth(_on_edge(edge, t), corners[index, :, 2], settings.perspective)
    z = z + settings.depth_slope * distance
    kept = (distance < settings.margin) & (z < nearest[pixel[index]])
    index = index[kept]
    return select_visible(
        torch.cat([pixel[index], crisp_pixel]),
        torch.cat([pair_face[index], crisp_face]),
        torch.cat([edge[kept], torch.full_like(crisp_pixel, CRISP)]),
        torch.cat([z[kept], torch.full_like(crisp_pixel, torch.inf, dtype=z.dtype)]),
        torch.cat([distance[kept] / settings.margin, torch.zeros_like(crisp_pixel, dtype=z.dtype)]),
    )


def select_visible(
    pixel: Int[Tensor, " M"],
    face: Int[Tensor, " M"],
    edge: Int[Tensor, " M"],
    z: Float[Tensor, " M"],
    normalized_distance: Float[Tensor, " M"],
) -> Fragments:
    """Sort fragments, and keep those that cover more than all nearer ones of their pixel.

    Args:
        pixel: see :class:`Fragments`.
        face: see :class:`Fragments`.
        edge: see :class:`Fragments`.
        z: depth to sort by, infinite for crisp fragments.
        normalized_distance: distance to the pixel's centre divided by the margin.
    """
    order = torch.arange(len(pixel), device=pixel.device)
    for key in (face, normalized_distance, z, pixel):  # by pixel, then depth, distance and face
        order = order[torch.argsort(key[order], stable=True)]
    pixel, face, edge, normalized_distance = pixel[order], face[order], edge[order], normalized_distance[order]
    kept = covers_more(pixel, normalized_distance)
    return Fragments(pixel[kept], face[kept], edge[kept])


def covers_more(pixel: Int[Tensor, " M"], normalized_distance: Float[Tensor, " M"]) -> Bool[Tensor, " M"]:
    """Return which fragments cover more than all earlier ones of their pixel, in the order of :func:`select_visible`.

    Adding 2 per pixel turns one running maximum into one for each pixel.
    """
    level = 2 * pixel.double() + 1 - normalized_distance.double()
    before = torch.cat([level.new_full((1,), -1.0), level.cummax(0).values])[: len(level)]
    return level > before


def evaluate_fragments(
    screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], fragments: Fragments, settings: RasterSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "B 1 S S"], Float[Tensor, "B 1 S S"]]:
    """Compute weights and coordinates of fragments, differentiable with respect to ``screen``.

    Returns:
        weights: see the module docstring.
        barycentric: perspective-correct coordinates of the triangle's point nearest to the pixel's centre.
        alpha: the sum of weights in each pixel, which is the greatest coverage; eq. 8 for a margin of 0.
        depth: of the crisp fragments (eq. 6), ``inf`` where there is none.
    """
    size = settings.size
    batch, in_image = fragments.pixel // size**2, fragments.pixel % size**2
    corners = screen[batch[:, None], faces[fragments.face]]
    centre = torch.stack([in_image % size, in_image // size], -1)

    crisp = fragments.edge == CRISP
    edge = fragments.edge.clamp(min=0)
    t, distance = _edge_distances(corners, centre)
    t, distance = (x.gather(-1, edge[:, None])[:, 0] for x in (t, distance))
    inside = _normalised(_edge_functions(corners, centre))
    barycentric = torch.where(crisp[:, None], inside, _on_edge(edge, t))
    if settings.perspective:
        barycentric = _normalised(barycentric / corners[..., 2])

    # With a margin of 0 all fragments are crisp, and the divisor is unused.
    coverage = torch.where(crisp, 1.0, 1 - distance / (settings.margin or 1.0))
    same = fragments.pixel[1:] == fragments.pixel[:-1]
    hidden = torch.cat([coverage.new_zeros(1), coverage[:-1] * same])[: len(coverage)]
    last = torch.cat([~same, same.new_ones(1)])[: len(coverage)]

    image = screen.new_zeros(len(screen), 1, size, size)
    alpha = image.flatten().index_put((fragments.pixel[last],), coverage[last])
    z = (barycentric * corners[..., 2]).sum(-1)[crisp]
    depth = image.flatten().fill_(torch.inf).index_put((fragments.pixel[crisp],), z)
    return coverage - hidden, barycentric, alpha.view_as(image), depth.view_as(image)


def _is_visible(corners: Float[Tensor, "F 3 3"], settings: RasterSettings) -> Bool[Tensor, " F"]:
    """Whether triangles are in front of the camera, not degenerate, and not culled."""
    area = _doubled_area(corners)
    xy = corners[..., :2]
    longest = (xy - xy.roll(-1, 1)).square().sum(-1).amax(-1)
    visible = (corners[..., 2] >= NEAR).all(-1) & (area.square() > THIN**2 * longest)
    return visible & (area < 0) if settings.cull_backfaces else visible  # y points down: front faces turn clockwise


def _pairs_in_boxes(
    corners: Float[Tensor, "F 3 3"], candidate: Int[Tensor, " K"], settings: RasterSettings
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Return face, column and row of every pixel centre in the candidates' bounding boxes, grown by the margin."""
    xy = corners[candidate][..., :2]
    # Clamp before rounding, because a far off-screen corner does not fit an integer.
    low = (xy.amin(1) - settings.margin - 0.5).clamp(0, settings.size).ceil().long()
    high = (xy.amax(1) + settings.margin - 0.5).clamp(-1, settings.size - 1).floor().long()
    width, height = (high - low + 1).clamp(min=0).unbind(-1)
    count = width * height
    pair = torch.repeat_interleave(torch.arange(len(candidate), device=corners.device), count)
    k = torch.arange(len(pair), device=corners.device) - (count.cumsum(0) - count)[pair]
    return candidate[pair], low[pair, 0] + k % width[pair], low[pair, 1] + k // width[pair]


def _doubled_area(corners: Float[Tensor, "M 3 3"]) -> Float[Tensor, " M"]:
    """Return twice the signed area on the screen, negative for counter-clockwise corners (with y up)."""
    a, b, c = corners[..., :2].unbind(1)
    return _cross(b - a, c - a)


def _edge_functions(corners: Float[Tensor, "M 3 3"], centre: Int[Tensor, "M 2"]) -> Float[Tensor, "M 3"]:
    """Return twice the signed area of the triangle of the centre and edge e (opposite to corner e), for each e.

    Corners are relative to the centre. Two triangles that share an edge then get exactly opposite values, so no centre
    falls between them.
    """
    a, b, c = (corners[..., :2] - (centre[:, None].to(corners) + 0.5)).unbind(1)
    return torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)


def _edge_distances(
    corners: Float[Tensor, "M 3 3"], centre: Int[Tensor, "M 2"]
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """Return, for each edge, the parameter in [0, 1] of its point nearest to the centre, and the distance to it."""
    relative = corners[..., :2] - (centre[:, None].to(corners) + 0.5)
    start, end = relative.roll(-1, 1), relative.roll(-2, 1)  # edge e runs from corner e + 1 to corner e + 2
    along = end - start
    t = (-(start * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return t, torch.linalg.vector_norm(start + t[..., None] * along, dim=-1)


def _on_edge(edge: Int[Tensor, " M"], t: Float[Tensor, " M"]) -> Float[Tensor, "M 3"]:
    """Return the screen-space barycentric coordinates of the point at parameter t of an edge."""
    local = torch.stack([torch.zeros_like(t), 1 - t, t], -1)  # at corners e, e + 1, e + 2
    return local.gather(-1, (torch.arange(3, device=t.device) - edge[:, None]) % 3)


def _interpolated_depth(
    barycentric: Float[Tensor, "M 3"], z: Float[Tensor, "M 3"], perspective: bool
) -> Float[Tensor, " M"]:
    """Return the depth at screen-space barycentric coordinates; in perspective 1/depth is linear on the screen."""
    return 1 / (barycentric / z).sum(-1) if perspective else (barycentric * z).sum(-1)


def _normalised(x: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3"]:
    return x / x.sum(-1, keepdim=True)


def _cross(a: Float[Tensor, "M 2"], b: Float[Tensor, "M 2"]) -> Float[Tensor, " M"]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
