"""CPU kernels for step 1 of the soft rasterizer: which fragments each pixel has.

See :mod:`renderers.soft_rasterizer.reference` for what they must find.
"""

# ruff: noqa: ANN001, ANN202, RUF046 (numba types the kernels itself)

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from renderers.numba_jit import compiled
from renderers.soft_rasterizer.reference import CRISP, NEAR, THIN, Fragments, RasterSettings

TILE = 4  # pixels; pairs of a triangle and a pixel are tested in tiles of 4 × 4, which one vector register holds
SLACK = 1e-3  # pixels, and 100 times the part of the depth, that the tests which only rule pairs out may be wrong


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """As :func:`renderers.soft_rasterizer.reference.find_fragments`; images are spread over torch's threads."""
    points, triangles = screen.detach().contiguous().numpy(), faces.contiguous().numpy()
    workers = min(len(points), torch.get_num_threads())
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda i: _find_in_one(points[i], triangles, i, settings), range(len(points))))
    else:
        parts = [_find_in_one(points[i], triangles, i, settings) for i in range(len(points))]
    columns = parts[0] if len(parts) == 1 else [np.concatenate(x) for x in zip(*parts, strict=True)]
    return Fragments(*(torch.from_numpy(x) for x in columns))


def _find_in_one(
    screen: np.ndarray, faces: np.ndarray, index: int, settings: RasterSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, kind = settings.size, screen.dtype.type
    # Padded by a tile, so that tiles need not end at the image's border; nothing is seen in the padding.
    depth = np.full((size + TILE, size + TILE), -np.inf, screen.dtype)
    depth[:size, :size] = np.inf
    crisp = np.full((size, size), -1, np.int32)
    orientation = np.zeros(len(faces), np.int8)
    covered = _crisp_pass(
        screen,
        faces,
        kind(NEAR),
        kind(THIN**2),
        settings.cull_backfaces,
        settings.perspective,
        depth,
        crisp,
        orientation,
    )
    head = np.full((size, size), -1, np.int32)
    capacity, listed = 2 * size * size, 0
    while True:
        # Nodes of the linked lists: next node, face, edge; and depth with the slope, distance.
        nodes, places = np.empty((capacity, 3), np.int32), np.empty((capacity, 2), screen.dtype)
        if settings.margin > 0:
            margin, slope = kind(settings.margin), kind(settings.depth_slope)
            listed = _soft_pass(
                screen, faces, margin, slope, settings.perspective, kind(SLACK), depth, orientation, head, nodes, places
            )
        if listed >= 0:
            return _in_order(head, nodes, crisp, index * size * size, listed + covered)
        capacity *= 4
        head.fill(-1)


@compiled
@no_type_check
def _crisp_pass(screen, faces, near, thin, cull, perspective, depth, crisp, orientation):
    """The nearest triangle that covers each pixel's centre, and its depth there; returns how many pixels have one.

    ``orientation`` becomes the sign of each triangle's area on the screen, 0 for a triangle that is not drawn.
    """
    kind = screen.dtype.type  # numba's mixed arithmetic would be double precision
    zero, half, last = kind(0), kind(0.5), kind(crisp.shape[0] - 1)
    covered = 0
    for f in range(faces.shape[0]):
        ax, ay, az = screen[faces[f, 0], 0], screen[faces[f, 0], 1], screen[faces[f, 0], 2]
        bx, by, bz = screen[faces[f, 1], 0], screen[faces[f, 1], 1], screen[faces[f, 1], 2]
        cx, cy, cz = screen[faces[f, 2], 0], screen[faces[f, 2], 1], screen[faces[f, 2], 2]
        if not (az >= near and bz >= near and cz >= near):
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        longest = max(_square(bx - ax, by - ay), _square(cx - bx, cy - by), _square(ax - cx, ay - cy))
        if not area * area > thin * longest or (cull and area > zero):
            continue
        orientation[f] = 1 if area > zero else -1
        left = int(math.ceil(max(min(ax, bx, cx) - half, zero)))
        right = int(math.floor(min(max(ax, bx, cx) - half, last)))
        top = int(math.ceil(max(min(ay, by, cy) - half, zero)))
        bottom = int(math.floor(min(max(ay, by, cy) - half, last)))
        for y in range(top, bottom + 1):
            py = kind(y) + half
            for x in range(left, right + 1):
                px = kind(x) + half
                # Relative to the centre, so that two triangles get exactly opposite values at the edge they share.
                ea = (bx - px) * (cy - py) - (by - py) * (cx - px)
                eb = (cx - px) * (ay - py) - (cy - py) * (ax - px)
                ec = (ax - px) * (by - py) - (ay - py) * (bx - px)
                if area > zero:
                    if ea < zero or eb < zero or ec < zero:
                        continue
                elif ea > zero or eb > zero or ec > zero:
                    continue
                total = ea + eb + ec
                z = total / (ea / az + eb / bz + ec / cz) if perspective else (ea * az + eb * bz + ec * cz) / total
                if z < depth[y, x]:  # faces come in order: of equal depths the first stays
                    covered += crisp[y, x] < 0
                    depth[y, x], crisp[y, x] = z, f
    return covered


@compiled
@no_type_check
def _soft_pass(screen, faces, margin, slope, perspective, slack, depth, orientation, head, nodes, places):
    """Lists of each pixel's soft fragments, nearest first and of strictly increasing coverage.

    Returns how many there are, or -1 if there are more than there is room for. A tile of pixels is first tested with
    bounds that need no branch: nearly all pairs, those within one smooth surface, end there.
    """
    kind = screen.dtype.type
    zero, half, one, last = kind(0), kind(0.5), kind(1), kind(head.shape[0] - 1)
    stride, flat = depth.shape[1], depth.reshape(-1)
    free, used, listed = -1, 0, 0
    for f in range(faces.shape[0]):
        if orientation[f] == 0:
            continue
        sign = kind(orientation[f])
        ax, ay, az = screen[faces[f, 0], 0], screen[faces[f, 0], 1], screen[faces[f, 0], 2]
        bx, by, bz = screen[faces[f, 1], 0], screen[faces[f, 1], 1], screen[faces[f, 1], 2]
        cx, cy, cz = screen[faces[f, 2], 0], screen[faces[f, 2], 1], screen[faces[f, 2], 2]
        left = int(math.ceil(max(min(ax, bx, cx) - margin - half, zero)))
        right = int(math.floor(min(max(ax, bx, cx) + margin - half, last)))
        top = int(math.ceil(max(min(ay, by, cy) - margin - half, zero)))
        bottom = int(math.floor(min(max(ay, by, cy) + margin - half, last)))
        anx, any_ = _outward(bx, by, cx, cy, sign)
        bnx, bny = _outward(cx, cy, ax, ay, sign)
        cnx, cny = _outward(ax, ay, bx, by, sign)

        # The triangle's depth at distance d from (x, y) is at least L(x, y) - |grad L| d, where L is the tangent at
        # corner a of its depth as a function on the screen (which is convex). So z_s >= L + (slope - |grad L|) d.
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        db = (az / bz if perspective else one) * (bz - az)
        dc = (az / cz if perspective else one) * (cz - az)
        gx, gy = (db * (cy - ay) - dc * (by - ay)) / area, (dc * (bx - ax) - db * (cx - ax)) / area
        climb = slope - math.sqrt(gx * gx + gy * gy)
        floor = min(zero, climb) * margin - slack * az * kind(0.01)
        climb = max(climb, zero)
        nearest = min(az, bz, cz)
        if abs(area) < kind(0.01):  # too small for its slope to be known
            gx, gy, climb, floor = zero, zero, slope, nearest - az - slack * az * kind(0.01)

        for tile_y in range(top, bottom + 1, TILE):
            for tile_x in range(left, right + 1, TILE):
                px, py = kind(tile_x) + half, kind(tile_y) + half
                a0, b0 = anx * (px - bx) + any_ * (py - by), bnx * (px - cx) + bny * (py - cy)
                c0, z0 = cnx * (px - ax) + cny * (py - ay), az + gx * (px - ax) + gy * (py - ay) + floor
                hits = np.int32(0)
                for k in range(TILE * TILE):
                    i, j = kind(k & (TILE - 1)), kind(k // TILE)
                    # The distance to the farthest of the three edges' lines is at most that to the triangle.
                    a, b, c = a0 + anx * i + any_ * j, b0 + bnx * i + bny * j, c0 + cnx * i + cny * j
                    outside = a if a > b else b
                    outside = outside if outside > c else c
                    z = z0 + gx * i + gy * j + climb * outside
                    z = z if z > nearest else nearest
                    behind = flat[(tile_y + k // TILE) * stride + tile_x + (k & (TILE - 1))]
                    hit = (outside > -slack) & (outside < margin + slack) & (z < behind)
                    hits |= np.int32(hit) << np.int32(k)

                for k in range(TILE * TILE if hits != 0 else 0):
                    x, y = tile_x + (k & (TILE - 1)), tile_y + k // TILE
                    if (hits >> k) & 1 == 0:
                        continue
                    px, py = kind(x) + half, kind(y) + half
                    best, t, edge, zi, zj = margin * margin, zero, -1, zero, zero
                    square, along = _to_edge(bx - px, by - py, cx - px, cy - py, sign)
                    if square < best:
                        best, t, edge, zi, zj = square, along, 0, bz, cz
                    square, along = _to_edge(cx - px, cy - py, ax - px, ay - py, sign)
                    if square < best:
                        best, t, edge, zi, zj = square, along, 1, cz, az
                    square, along = _to_edge(ax - px, ay - py, bx - px, by - py, sign)
                    if square < best:
                        best, t, edge, zi, zj = square, along, 2, az, bz
                    distance = math.sqrt(best)
                    if edge < 0 or distance >= margin:
                        continue
                    z = one / ((one - t) / zi + t / zj) if perspective else (one - t) * zi + t * zj
                    z += slope * distance
                    if z >= depth[y, x]:
                        continue

                    # Walk to its place by (depth, distance, face), ascending; a nearer one that covers as much hides it.
                    before, node, hidden = -1, head[y, x], False
                    while node >= 0 and (places[node, 0] < z or (places[node, 0] == z and places[node, 1] <= distance)):
                        if places[node, 1] <= distance:
                            hidden = True
                            break
                        before, node = node, nodes[node, 0]
                    if hidden:
                        continue
                    while node >= 0 and places[node, 1] >= distance:  # it hides these
                        after = nodes[node, 0]
                        nodes[node, 0] = free
                        free, node = node, after
                        listed -= 1
                    if free >= 0:
                        new, free = free, nodes[free, 0]
                    elif used < nodes.shape[0]:
                        new, used = used, used + 1
                    else:
                        return -1
                    listed += 1
                    nodes[new, 0], nodes[new, 1], nodes[new, 2] = node, f, edge
                    places[new, 0], places[new, 1] = z, distance
                    if before < 0:
                        head[y, x] = new
                    else:
                        nodes[before, 0] = new
    return listed


@compiled
@no_type_check
def _in_order(head, nodes, crisp, first_pixel, count):
    """Walk over the pixels and write down their fragments."""
    pixel, face, edge = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    n = 0
    for y in range(crisp.shape[0]):
        for x in range(crisp.shape[1]):
            at = first_pixel + y * crisp.shape[1] + x
            node = head[y, x]
            while node >= 0:
                pixel[n], face[n], edge[n] = at, nodes[node, 1], nodes[node, 2]
                node = nodes[node, 0]
                n += 1
            if crisp[y, x] >= 0:
                pixel[n], face[n], edge[n] = at, crisp[y, x], CRISP
                n += 1
    return pixel, face, edge


@compiled
@no_type_check
def _square(x, y):
    return x * x + y * y


@compiled
@no_type_check
def _outward(sx, sy, tx, ty, sign):
    """Unit normal of the edge from s to t that points out of a triangle whose area has this sign."""
    dx, dy = tx - sx, ty - sy
    scale = sign / math.sqrt(dx * dx + dy * dy)
    return dy * scale, -dx * scale


@compiled
@no_type_check
def _to_edge(sx, sy, tx, ty, sign):
    """Squared distance of the origin to the edge from s to t, and where along it; "infinite" if it is inside of the edge."""
    zero = sign - sign
    if (sx * ty - sy * tx) * sign >= zero:
        return np.float32(1e30) + zero, zero
    dx, dy = tx - sx, ty - sy
    t = min(max(-(sx * dx + sy * dy) / (dx * dx + dy * dy), zero), sign * sign)
    return _square(sx + t * dx, sy + t * dy), t
