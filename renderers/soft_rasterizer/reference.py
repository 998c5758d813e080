"""The soft rasterizer in plain torch: the specification that every kernel is tested against (MeshGAN, section 5).

An image is a weighted sum of *fragments*. A fragment is one triangle as one pixel sees it: either the triangle covers
the pixel's centre (it is *crisp*; the nearest one alone counts, eqs. 6 to 8), or the centre lies outside it but nearer
than the margin B and nothing crisp hides it (it is *soft*; eq. 9). Drawing takes two steps:

1. :func:`find_fragments` decides which fragments a pixel has and in which order. All of it is comparisons: the result
   is integers and has no gradient.
2. :func:`evaluate_fragments` computes weights and barycentric coordinates of those few fragments from the vertices.
   All of it is smooth, and autograd differentiates it.

**Weights.** A fragment hides ``coverage = 1 - d / B`` of its pixel (eq. 11 with its erratum; d is the distance from the
pixel's centre to the triangle, so a crisp fragment hides all of it). A pixel's fragments are ordered from the nearest to
the crisp one, and coverages are nested: each fragment weighs what it hides beyond all nearer ones,

    weight_k = max(0, coverage_k - max_{j<k} coverage_j).

The soft weights sum to ``alpha_s = max_k (1 - d_k / B)``, the crisp fragment gets ``(1 - alpha_s) alpha_c``, and the
background what is left, ``(1 - alpha_s)(1 - alpha_c)``: eqs. 11 and 12. The soft image ``a_s`` is an average of the soft
attributes as in eq. 10, weighted so that the image is continuous while triangles move: one that enters the margin
enters with weight 0, one whose edge reaches the centre replaces all behind it, and it does so on both sides of the
edge. With the plain mean of eq. 10 both events are jumps. Fragments that would weigh nothing are left out.

Screen frame: x right and y down in pixels, (0, 0) at the image's top left corner; depth in world units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAR = 1e-3  # world units; a triangle with a corner nearer than this, or behind the camera, is not drawn
THIN = 1e-4  # pixels; a triangle whose height is smaller counts as degenerate and is not drawn
CRISP = -1  # Fragments.edge of a triangle that covers the pixel's centre


@dataclass(frozen=True)
class RasterSettings:
    """What the two steps need to know.

    Args:
        size: height and width of the image in pixels.
        margin: B in pixels; 0 is the crisp renderer.
        depth_slope: lambda of eq. 9, world units a pixel.
        cull_backfaces: leave out triangles that are seen from behind (clockwise on the screen with y up).
        perspective: whether attributes are linear in 1/depth on the screen.
    """

    size: int
    margin: float
    depth_slope: float
    cull_backfaces: bool
    perspective: bool


@dataclass(frozen=True)
class Fragments:
    """N fragments, sorted by pixel and within a pixel from the nearest on; a crisp one is its pixel's last.

    Args:
        pixel: ``(N,)`` flat index into (batch, row, column).
        face: ``(N,)`` index into faces.
        edge: ``(N,)`` the edge that holds the point nearest to the pixel's centre, edge e being opposite to corner e;
            -1 for a crisp fragment.
    """

    pixel: Int[Tensor, " N"]
    face: Int[Tensor, " N"]
    edge: Int[Tensor, " N"]


def project(
    vertices: Float[Tensor, "B V 3"], matrix: Float[Tensor, "B 3 3"], distance: float, settings: RasterSettings
) -> Float[Tensor, "B V 3"]:
    """World points to the screen frame: :meth:`renderers.Camera.project` in pixels.

    ``matrix`` takes a point to (pixels right, pixels down, depth less ``distance``), the pixels counted from the
    image's middle and, in perspective, times the depth. A point at or behind the camera's plane is divided as if it
    were just before it, so that its (unused) coordinates have no infinite gradient.
    """
    x_y, z = (vertices @ matrix.mT).split([2, 1], -1)
    depth = z + distance
    if settings.perspective:
        x_y = x_y / depth.clamp(min=NEAR)
    return torch.cat([x_y + settings.size / 2, depth], -1)


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """The fragments that weigh anything, for vertices (x, y, depth) in the screen frame."""
    with torch.no_grad():
        parts = [_find_in_one(points, faces, settings) for points in screen]
    pixels = settings.size**2
    pixel = torch.cat([part.pixel + i * pixels for i, part in enumerate(parts)])
    return Fragments(pixel, torch.cat([part.face for part in parts]), torch.cat([part.edge for part in parts]))


def _find_in_one(screen: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    corners = screen[faces]
    candidate = torch.nonzero(_is_drawn(corners, settings))[:, 0]
    pair_face, column, row = _pairs_in_boxes(corners, candidate, settings)
    pixel = row * settings.size + column
    corners = corners[pair_face]
    edge_function = _edge_functions(corners, torch.stack([column, row], -1))
    orientation = edge_function.new_tensor(1.0).copysign(_doubled_area(corners))
    signed = edge_function * orientation[:, None]  # positive on the triangle's side of each edge
    inside = (signed >= 0).all(-1)

    # Crisp: the least depth wins, and of equal depths the least face, whatever the order they come in.
    at = torch.nonzero(inside)[:, 0]
    z = _interpolated_depth(_normalised(edge_function[at]), corners[at, :, 2], settings.perspective)
    nearest = torch.full((settings.size**2,), torch.inf, dtype=z.dtype, device=z.device)
    nearest = nearest.scatter_reduce(0, pixel[at], z, "amin")
    at = at[z == nearest[pixel[at]]]
    crisp_face = torch.full_like(nearest, faces.shape[0], dtype=torch.long)
    crisp_face = crisp_face.scatter_reduce(0, pixel[at], pair_face[at], "amin")
    crisp_pixel = torch.nonzero(nearest < torch.inf)[:, 0]
    crisp_face = crisp_face[crisp_pixel]
    if settings.margin == 0:
        return Fragments(crisp_pixel, crisp_face, torch.full_like(crisp_pixel, CRISP))

    # Soft: the point of the triangle nearest to a centre outside it lies on an edge that faces the centre.
    at = torch.nonzero(~inside)[:, 0]
    t, distance = _edge_distances(corners[at], torch.stack([column[at], row[at]], -1))
    distance, edge = distance.masked_fill(signed[at] >= 0, torch.inf).min(-1)
    t = t.gather(-1, edge[:, None])[:, 0]
    z = _interpolated_depth(_on_edge(edge, t), corners[at, :, 2], settings.perspective)
    z = z + settings.depth_slope * distance
    seen = (distance < settings.margin) & (z < nearest[pixel[at]])
    at = at[seen]
    return keep_what_weighs(
        torch.cat([pixel[at], crisp_pixel]),
        torch.cat([pair_face[at], crisp_face]),
        torch.cat([edge[seen], torch.full_like(crisp_pixel, CRISP)]),
        torch.cat([z[seen], torch.full_like(crisp_pixel, torch.inf, dtype=z.dtype)]),
        torch.cat([distance[seen] / settings.margin, torch.zeros_like(crisp_pixel, dtype=z.dtype)]),
    )


def keep_what_weighs(
    pixel: Int[Tensor, " M"],
    face: Int[Tensor, " M"],
    edge: Int[Tensor, " M"],
    z: Float[Tensor, " M"],
    share: Float[Tensor, " M"],
) -> Fragments:
    """Sort fragments, and keep those which cover more than all nearer ones of their pixel.

    Args:
        pixel: as in :class:`Fragments`.
        face: likewise.
        edge: likewise.
        z: depth to sort by, infinite for crisp fragments.
        share: distance to the pixel's centre as a share of the margin.
    """
    order = torch.arange(len(pixel), device=pixel.device)
    for key in (face, share, z, pixel):  # by pixel, ties by depth, ties of these by distance and face
        order = order[torch.argsort(key[order], stable=True)]
    pixel, face, edge, share = pixel[order], face[order], edge[order], share[order]
    # Adding 2 a pixel turns one running maximum into one for each pixel.
    level = 2 * pixel.double() + 1 - share.double()
    before = torch.cat([level.new_full((1,), -1.0), level.cummax(0).values])[: len(level)]
    kept = level > before
    return Fragments(pixel[kept], face[kept], edge[kept])


def evaluate_fragments(
    screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], fragments: Fragments, settings: RasterSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "B 1 S S"], Float[Tensor, "B 1 S S"]]:
    """What fragments look like to an image; differentiable in ``screen``.

    Returns:
        weights: as the module's first lines say.
        barycentric: perspective-correct coordinates of the triangle's point nearest to the pixel's centre.
        alpha: the weights' sum in each pixel, which is the greatest coverage; eq. 8 for a margin of 0.
        depth: the crisp fragments' (eq. 6), ``inf`` where there is none.
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

    # A margin of 0 has crisp fragments alone; the divisor then is of no matter.
    coverage = torch.where(crisp, 1.0, 1 - distance / (settings.margin or 1.0))
    same = fragments.pixel[1:] == fragments.pixel[:-1]
    hidden = torch.cat([coverage.new_zeros(1), coverage[:-1] * same])[: len(coverage)]
    last = torch.cat([~same, same.new_ones(1)])[: len(coverage)]

    image = screen.new_zeros(len(screen), 1, size, size)
    alpha = image.flatten().index_put((fragments.pixel[last],), coverage[last])
    z = (barycentric * corners[..., 2]).sum(-1)[crisp]
    depth = image.flatten().fill_(torch.inf).index_put((fragments.pixel[crisp],), z)
    return coverage - hidden, barycentric, alpha.view_as(image), depth.view_as(image)


def _is_drawn(corners: Float[Tensor, "F 3 3"], settings: RasterSettings) -> Bool[Tensor, " F"]:
    """In front of the camera, not degenerate, and seen from the right side."""
    area = _doubled_area(corners)
    xy = corners[..., :2]
    longest = (xy - xy.roll(-1, 1)).square().sum(-1).amax(-1)
    drawn = (corners[..., 2] >= NEAR).all(-1) & (area.square() > THIN**2 * longest)
    return drawn & (area < 0) if settings.cull_backfaces else drawn  # y points down: front faces turn clockwise


def _pairs_in_boxes(
    corners: Float[Tensor, "F 3 3"], candidate: Int[Tensor, " K"], settings: RasterSettings
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Face, column and row of every pixel centre in the candidates' bounding boxes, grown by the margin."""
    xy = corners[candidate][..., :2]
    # Clamped before rounding, because a far off-screen corner does not fit an integer.
    low = (xy.amin(1) - settings.margin - 0.5).clamp(0, settings.size).ceil().long()
    high = (xy.amax(1) + settings.margin - 0.5).clamp(-1, settings.size - 1).floor().long()
    width, height = (high - low + 1).clamp(min=0).unbind(-1)
    count = width * height
    pair = torch.repeat_interleave(torch.arange(len(candidate), device=corners.device), count)
    k = torch.arange(len(pair), device=corners.device) - (count.cumsum(0) - count)[pair]
    return candidate[pair], low[pair, 0] + k % width[pair], low[pair, 1] + k // width[pair]


def _doubled_area(corners: Float[Tensor, "M 3 3"]) -> Float[Tensor, " M"]:
    """Twice the signed area on the screen, negative where the corners turn counter-clockwise with y up."""
    a, b, c = corners[..., :2].unbind(1)
    return _cross(b - a, c - a)


def _edge_functions(corners: Float[Tensor, "M 3 3"], centre: Int[Tensor, "M 2"]) -> Float[Tensor, "M 3"]:
    """Twice the signed area of the centre with edge e (opposite to corner e).

    Corners are taken relative to the centre. Two triangles that share an edge then get exactly opposite values, so no
    centre falls between them.
    """
    a, b, c = (corners[..., :2] - (centre[:, None].to(corners) + 0.5)).unbind(1)
    return torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)


def _edge_distances(
    corners: Float[Tensor, "M 3 3"], centre: Int[Tensor, "M 2"]
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """For each edge the parameter in [0, 1] of its point nearest to the centre, and the distance to that point."""
    relative = corners[..., :2] - (centre[:, None].to(corners) + 0.5)
    start, end = relative.roll(-1, 1), relative.roll(-2, 1)  # edge e runs from corner e + 1 to corner e + 2
    along = end - start
    t = (-(start * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return t, torch.linalg.vector_norm(start + t[..., None] * along, dim=-1)


def _on_edge(edge: Int[Tensor, " M"], t: Float[Tensor, " M"]) -> Float[Tensor, "M 3"]:
    """Barycentric coordinates on the screen of the point t along an edge."""
    local = torch.stack([torch.zeros_like(t), 1 - t, t], -1)  # at corners e, e + 1, e + 2
    return local.gather(-1, (torch.arange(3, device=t.device) - edge[:, None]) % 3)


def _interpolated_depth(
    barycentric: Float[Tensor, "M 3"], z: Float[Tensor, "M 3"], perspective: bool
) -> Float[Tensor, " M"]:
    """Depth at screen-space barycentric coordinates; 1/depth is linear on a perspective screen."""
    return 1 / (barycentric / z).sum(-1) if perspective else (barycentric * z).sum(-1)


def _normalised(x: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3"]:
    return x / x.sum(-1, keepdim=True)


def _cross(a: Float[Tensor, "M 2"], b: Float[Tensor, "M 2"]) -> Float[Tensor, " M"]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
