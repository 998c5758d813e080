"""CPU kernels for step 1 of the soft rasterizer: finding the fragments of each pixel.

The specification is :func:`renderers.soft_rasterizer.reference.find_fragments`.
"""

# ruff: noqa: ANN001, ANN202, RUF046 (numba infers the kernels' types)

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from renderers.numba_jit import as_arrays, compiled, map_batch
from renderers.soft_rasterizer.reference import CRISP, NEAR, THIN, Fragments, RasterSettings

TILE = 4  # pixels; triangles are tested against tiles of 4 × 4 pixels, which fit one vector register
SLACK = 1e-3  # tolerance of the tile test in pixels; 1 % of it is the tolerance in relative depth


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """Compute :func:`renderers.soft_rasterizer.reference.find_fragments`, with images spread over torch's threads."""
    points, triangles = as_arrays(screen.contiguous(), faces.contiguous())
    parts = map_batch(lambda i: _find_in_image(points[i], triangles, i, settings), len(points))
    columns = parts[0] if len(parts) == 1 else [np.concatenate(x) for x in zip(*parts, strict=True)]
    return Fragments(*(torch.from_numpy(x) for x in columns))


def _find_in_image(
    screen: np.ndarray, faces: np.ndarray, index: int, settings: RasterSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, dtype = settings.size, screen.dtype.type
    # Pad by a tile, so that tiles may extend beyond the image's border; depth -inf hides everything in the padding.
    depth = np.full((size + TILE, size + TILE), -np.inf, screen.dtype)
    depth[:size, :size] = np.inf
    crisp = np.full((size, size), -1, np.int32)
    orientation = np.zeros(len(faces), np.int8)
    covered = _crisp_pass(
        screen,
        faces,
        dtype(NEAR),
        dtype(THIN**2),
        settings.cull_backfaces,
        settings.perspective,
        depth,
        crisp,
        orientation,
    )
    head = np.full((size, size), -1, np.int32)
    capacity, count = 2 * size * size, 0
    while True:
        # Nodes of the linked lists: next node, face, edge; and depth with the slope, distance.
        nodes, keys = np.empty((capacity, 3), np.int32), np.empty((capacity, 2), screen.dtype)
        if settings.margin > 0:
            margin, slope = dtype(settings.margin), dtype(settings.depth_slope)
            count = _soft_pass(
                screen, faces, margin, slope, settings.perspective, dtype(SLACK), depth, orientation, head, nodes, keys
            )
        if count >= 0:
            return _collect(head, nodes, crisp, index * size * size, count + covered)
        capacity *= 4
        head.fill(-1)


@compiled
@no_type_check
def _crisp_pass(screen, faces, near, thin, cull, perspective, depth, crisp, orientation):
    """Find the nearest triangle that covers each pixel's centre and its depth; return the number of covered pixels.

    Set ``orientation`` to the sign of each triangle's area on the screen, or 0 for a triangle that is not rendered.
    """
    dtype = screen.dtype.type  # in numba, mixed arithmetic would be double precision
    zero, half, last = dtype(0), dtype(0.5), dtype(crisp.shape[0] - 1)
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
            py = dtype(y) + half
            for x in range(left, right + 1):
                px = dtype(x) + half
                # Relative to the centre, so that adjacent triangles get exactly opposite values at their shared edge.
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
                if z < depth[y, x]:  # among equal depths the first face wins
                    covered += crisp[y, x] < 0
                    depth[y, x], crisp[y, x] = z, f
    return covered


@compiled
@no_type_check
def _soft_pass(screen, faces, margin, slope, perspective, slack, depth, orientation, head, nodes, keys):
    """Build a list of soft fragments for each pixel, nearest first and with strictly increasing coverage.

    Return the number of fragments, or -1 if they exceed the capacity. Each tile of pixels is first tested with
    conservative bounds without branches, which reject nearly all pairs: those within one smooth surface.
    """
    dtype = screen.dtype.type
    zero, half, one, last = dtype(0), dtype(0.5), dtype(1), dtype(head.shape[0] - 1)
    stride, flat = depth.shape[1], depth.reshape(-1)
    free, used, count = -1, 0, 0
    for f in range(faces.shape[0]):
        if orientation[f] == 0:
            continue
        sign = dtype(orientation[f])
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

        # The triangle's depth is a convex function on the screen. With L its tangent at corner a, the depth at distance d
        # from (x, y) is at least L(x, y) - |grad L| d. Hence z_s >= L + (slope - |grad L|) d.
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        db = (az / bz if perspective else one) * (bz - az)
        dc = (az / cz if perspective else one) * (cz - az)
        gx, gy = (db * (cy - ay) - dc * (by - ay)) / area, (dc * (bx - ax) - db * (cx - ax)) / area
        climb = slope - math.sqrt(gx * gx + gy * gy)
        floor = min(zero, climb) * margin - slack * az * dtype(0.01)
        climb = max(climb, zero)
        nearest = min(az, bz, cz)
        if abs(area) < dtype(0.01):  # too small for a reliable slope
            gx, gy, climb, floor = zero, zero, slope, nearest - az - slack * az * dtype(0.01)

        for tile_y in range(top, bottom + 1, TILE):
            for tile_x in range(left, right + 1, TILE):
                px, py = dtype(tile_x) + half, dtype(tile_y) + half
                a0, b0 = anx * (px - bx) + any_ * (py - by), bnx * (px - cx) + bny * (py - cy)
                c0, z0 = cnx * (px - ax) + cny * (py - ay), az + gx * (px - ax) + gy * (py - ay) + floor
                hits = np.int32(0)
                for k in range(TILE * TILE):
                    i, j = dtype(k & (TILE - 1)), dtype(k // TILE)
                    # The distance to the farthest of the three edge lines is a lower bound of that to the triangle.
                    a, b, c = a0 + anx * i + any_ * j, b0 + bnx * i + bny * j, c0 + cnx * i + cny * j
                    outside = a if a > b else b
                    outside = outside if outside > c else c
                    z = z0 + gx * i + gy * j + climb * outside
                    z = z if z > nearest else nearest
                    crisp_depth = flat[(tile_y + k // TILE) * stride + tile_x + (k & (TILE - 1))]
                    hit = (outside > -slack) & (outside < margin + slack) & (z < crisp_depth)
                    hits |= np.int32(hit) << np.int32(k)

                for k in range(TILE * TILE if hits != 0 else 0):
                    x, y = tile_x + (k & (TILE - 1)), tile_y + k // TILE
                    if (hits >> k) & 1 == 0:
                        continue
                    px, py = dtype(x) + half, dtype(y) + half
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

                    # Insert by (depth, distance, face), ascending; a nearer fragment of at least equal coverage hides it.
                    before, node, hidden = -1, head[y, x], False
                    while node >= 0 and (keys[node, 0] < z or (keys[node, 0] == z and keys[node, 1] <= distance)):
                        if keys[node, 1] <= distance:
                            hidden = True
                            break
                        before, node = node, nodes[node, 0]
                    if hidden:
                        continue
                    while node >= 0 and keys[node, 1] >= distance:  # hidden by the new fragment
                        after = nodes[node, 0]
                        nodes[node, 0] = free
                        free, node = node, after
                        count -= 1
                    if free >= 0:
                        new, free = free, nodes[free, 0]
                    elif used < nodes.shape[0]:
                        new, used = used, used + 1
                    else:
                        return -1
                    count += 1
                    nodes[new, 0], nodes[new, 1], nodes[new, 2] = node, f, edge
                    keys[new, 0], keys[new, 1] = z, distance
                    if before < 0:
                        head[y, x] = new
                    else:
                        nodes[before, 0] = new
    return count


@compiled
@no_type_check
def _collect(head, nodes, crisp, first_pixel, count):
    """Return the fragments in pixel order."""
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
    """Return the outward unit normal of the edge from s to t, for a triangle whose area has this sign."""
    dx, dy = tx - sx, ty - sy
    scale = sign / math.sqrt(dx * dx + dy * dy)
    return dy * scale, -dx * scale


@compiled
@no_type_check
def _to_edge(sx, sy, tx, ty, sign):
    """Return the squared distance of the origin to the edge from s to t, 1e30 if it is inside, and the edge parameter."""
    zero = sign - sign
    if (sx * ty - sy * tx) * sign >= zero:
        return np.float32(1e30) + zero, zero
    dx, dy = tx - sx, ty - sy
    t = min(max(-(sx * dx + sy * dy) / (dx * dx + dy * dy), zero), sign * sign)
    return _square(sx + t * dx, sy + t * dy), t
