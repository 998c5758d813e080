"""CPU kernels of the volume renderers: each ray marches only through the part of the grid that it crosses.

The formulas are in :mod:`renderers.volume.reference`. The backward pass is their analytic derivative without a division.
Let ``e_i`` be the gradient per unit of light from sample i, and ``E_i`` the same for everything behind it, so that
``E_{i-1} = v_i e_i + (1 - v_i) E_i``. The derivative with respect to v_i is ``T_i (e_i - E_i)``, also in opaque voxels,
where T_i is the transmittance up to sample i.

All kernels take one batch item; grids are padded with one voxel, and colours have their channels last. Lit absorption has
kernels of its own: ``cells`` ``(E³, 4)`` holds each voxel's occupancy and gradient, which a sample reads as one vector.
"""

# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the kernels' types)

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from renderers.numba_jit import compiled


@compiled
@no_type_check
def _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step):
    """Set a ray's position in the padded grid, ``start + a step``, and in the camera frame, ``origin + a slope``."""
    dtype = origin.dtype.type
    if perspective:
        origin[0], origin[1] = x * half_extent * distance, y * half_extent * distance
        slope[0], slope[1] = x * half_extent, y * half_extent
    else:
        origin[0], origin[1] = x, y
        slope[0], slope[1] = dtype(0), dtype(0)
    origin[2], slope[2] = dtype(0), dtype(-1)
    for j in range(3):
        o = rotation[0, j] * origin[0] + rotation[1, j] * origin[1]
        s = rotation[0, j] * slope[0] + rotation[1, j] * slope[1] - rotation[2, j]
        start[j] = dtype(d) * o + dtype(d) * dtype(0.5) + dtype(0.5)
        step[j] = dtype(d) * s


@compiled
@no_type_check
def _sample_range(start, step, d, samples):
    """Return the range of samples inside the padded grid, outside which trilinear samples are 0."""
    near, far = -1.0, 1.0
    for j in range(3):
        u, s = np.float64(start[j]), np.float64(step[j])
        if not (np.isfinite(u) and np.isfinite(s)):  # no index could be computed from it
            return 0, 0
        if abs(s) < 1e-12:
            if u <= 0 or u >= d + 1:
                return 0, 0
        else:
            a, b = -u / s, (d + 1 - u) / s
            near, far = max(near, min(a, b)), min(far, max(a, b))
    if near >= far:
        return 0, 0
    first = max(0, int(np.ceil((near + 1) / 2 * samples - 0.5)))
    last = min(samples, int(np.floor((far + 1) / 2 * samples - 0.5)) + 1)
    return first, last


@compiled
@no_type_check
def forward(volume, color, rotation, samples, perspective, half_extent, distance, hull, density, alpha, image):
    dtype = rotation.dtype.type
    d, size, channels = volume.shape[1] - 2, alpha.shape[1], color.shape[3]
    flat, flat_color = volume.reshape(-1), color.reshape(-1)
    row, slab = d + 2, (d + 2) * (d + 2)
    one = dtype(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    light = np.empty(channels, rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, samples)
            transmittance, total = one, dtype(0)
            light[:] = 0
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(samples) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                v = _trilinear(flat, i, 1, row, slab, fx, fy, fz)
                if hull:
                    total += v
                    continue
                v *= density
                if channels and v > 0:
                    for ch in range(channels):
                        light[ch] += (
                            transmittance
                            * v
                            * _trilinear(
                                flat_color, i * channels + ch, channels, row * channels, slab * channels, fx, fy, fz
                            )
                        )
                transmittance *= one - v
                if transmittance == 0:
                    break
            alpha[0, r, c] = one - np.exp(-density * total) if hull else one - transmittance
            for ch in range(channels):
                image[ch, r, c] = light[ch]


@compiled
@no_type_check
def _locate(start, step, a, d):
    """Return the flat index in the padded grid of the voxel below a sample, and the fractions between it and the next."""
    dtype = start.dtype.type
    ux = min(max(start[0] + a * step[0], dtype(0)), dtype(d + 1))
    uy = min(max(start[1] + a * step[1], dtype(0)), dtype(d + 1))
    uz = min(max(start[2] + a * step[2], dtype(0)), dtype(d + 1))
    ix, iy, iz = min(np.int32(ux), d), min(np.int32(uy), d), min(np.int32(uz), d)
    return (iz * (d + 2) + iy) * (d + 2) + ix, ux - dtype(ix), uy - dtype(iy), uz - dtype(iz)


@compiled
@no_type_check
def _trilinear(source, j, dx, dy, dz, fx, fy, fz):
    """Interpolate between the eight values from index j, ``dx``, ``dy`` and ``dz`` apart."""
    c00 = source[j] + fx * (source[j + dx] - source[j])
    c01 = source[j + dy] + fx * (source[j + dy + dx] - source[j + dy])
    j += dz
    c10 = source[j] + fx * (source[j + dx] - source[j])
    c11 = source[j + dy] + fx * (source[j + dy + dx] - source[j + dy])
    c0 = c00 + fy * (c01 - c00)
    c1 = c10 + fy * (c11 - c10)
    return c0 + fz * (c1 - c0)


@compiled
@no_type_check
def backward(
    volume,
    color,
    rotation,
    samples,
    perspective,
    half_extent,
    distance,
    hull,
    density,
    needs_rotation,
    grad_alpha,
    grad_image,
    grad_volume,
    grad_color,
    grad_rotation,
):
    dtype = rotation.dtype.type
    d, size, channels = volume.shape[1] - 2, grad_alpha.shape[1], color.shape[3]
    flat, flat_color = volume.reshape(-1), color.reshape(-1)
    grad_flat, grad_flat_color = grad_volume.reshape(-1), grad_color.reshape(-1)
    row, slab = d + 2, (d + 2) * (d + 2)
    one = dtype(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    index = np.empty(samples, np.int32)
    xs, ys, zs, vs, ts, es = np.empty((6, samples), rotation.dtype)
    grad_start, grad_step = np.empty((2, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            grad_light = grad_alpha[0, r, c]
            dark = grad_light == 0
            for ch in range(channels):
                dark = dark and grad_image[ch, r, c] == 0
            if dark:
                continue
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, samples)
            transmittance, total = one, dtype(0)
            n = 0
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(samples) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                index[n], xs[n], ys[n], zs[n] = i, fx, fy, fz
                v = _trilinear(flat, i, 1, row, slab, fx, fy, fz)
                n += 1
                if hull:
                    total += v
                    continue
                v *= density
                vs[n - 1], ts[n - 1] = v, transmittance
                transmittance *= one - v
                if channels:
                    e = grad_light
                    for ch in range(channels):
                        e += grad_image[ch, r, c] * _trilinear(
                            flat_color, i * channels + ch, channels, row * channels, slab * channels, fx, fy, fz
                        )
                    es[n - 1] = e
            # The march continues behind an opaque sample, whose derivative depends on the samples that it hides.
            grad_behind = dtype(0)
            if hull:
                grad_light *= density * np.exp(-density * total)
            grad_start[:] = 0
            grad_step[:] = 0
            for m in range(n - 1, -1, -1):
                i, fx, fy, fz = index[m], xs[m], ys[m], zs[m]
                a = dtype(2 * (first + m) + 1) / dtype(samples) - one
                g = grad_light
                if not hull:
                    v, t = vs[m], ts[m]
                    e = es[m] if channels else grad_light
                    g = density * t * (e - grad_behind)
                    grad_behind = v * e + (one - v) * grad_behind
                    for ch in range(channels):
                        w = grad_image[ch, r, c] * t * v
                        if w != 0:
                            j, dx, dy, dz = i * channels + ch, channels, row * channels, slab * channels
                            _scatter(grad_flat_color, j, dx, dy, dz, fx, fy, fz, w)
                            if needs_rotation:
                                _add_ray_grad(flat_color, j, dx, dy, dz, fx, fy, fz, w, a, grad_start, grad_step)
                _scatter(grad_flat, i, 1, row, slab, fx, fy, fz, g)
                if needs_rotation:
                    _add_ray_grad(flat, i, 1, row, slab, fx, fy, fz, g, a, grad_start, grad_step)
            if needs_rotation:
                _add_rotation_grad(grad_rotation, d, origin, slope, grad_start, grad_step)


@compiled
@no_type_check
def _scatter(target, i, dx, dy, dz, fx, fy, fz, g):
    """Add g to the eight voxels around a sample, by their trilinear weights."""
    z1 = g * fz
    z0 = g - z1
    a1 = z0 * fy
    a0 = z0 - a1
    b1 = z1 * fy
    b0 = z1 - b1
    target[i] += a0 - a0 * fx
    target[i + dx] += a0 * fx
    target[i + dy] += a1 - a1 * fx
    target[i + dy + dx] += a1 * fx
    i += dz
    target[i] += b0 - b0 * fx
    target[i + dx] += b0 * fx
    target[i + dy] += b1 - b1 * fx
    target[i + dy + dx] += b1 * fx


@compiled
@no_type_check
def _add_ray_grad(source, i, dx, dy, dz, fx, fy, fz, g, a, grad_start, grad_step):
    """Add g times the sample's derivative with respect to its position to the gradients of the ray's start and step."""
    e = i + dz
    x0, x1 = source[i + dx] - source[i], source[i + dy + dx] - source[i + dy]
    x2, x3 = source[e + dx] - source[e], source[e + dy + dx] - source[e + dy]
    low = x0 + fy * (x1 - x0)
    by_x = low + fz * (x2 + fy * (x3 - x2) - low)
    c00, c01 = source[i] + fx * x0, source[i + dy] + fx * x1
    c10, c11 = source[e] + fx * x2, source[e + dy] + fx * x3
    by_y = c01 - c00 + fz * (c11 - c10 - c01 + c00)
    by_z = c10 - c00 + fy * (c11 - c01 - c10 + c00)
    grad_start[0] += g * by_x
    grad_start[1] += g * by_y
    grad_start[2] += g * by_z
    grad_step[0] += g * a * by_x
    grad_step[1] += g * a * by_y
    grad_step[2] += g * a * by_z


@compiled
@no_type_check
def resample_forward(volume, rotation, perspective, half_extent, distance, output):
    dtype = rotation.dtype.type
    d, size = volume.shape[1] - 2, output.shape[1]
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    flat = volume.reshape(-1)
    one = dtype(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, size)
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(size) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                for ch in range(volume.shape[0]):
                    j = ch * cube + i
                    output[ch, k, r, c] = _trilinear(flat, j, 1, row, slab, fx, fy, fz)


@compiled
@no_type_check
def resample_backward(
    volume, rotation, perspective, half_extent, distance, needs_rotation, grad, grad_volume, grad_rotation
):
    dtype = rotation.dtype.type
    d, size = volume.shape[1] - 2, grad.shape[1]
    row, slab, cube = d + 2, (d + 2) * (d + 2), (d + 2) * (d + 2) * (d + 2)
    flat, grad_flat = volume.reshape(-1), grad_volume.reshape(-1)
    one = dtype(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    grad_start, grad_step = np.empty((2, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, size)
            grad_start[:] = 0
            grad_step[:] = 0
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(size) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                for ch in range(volume.shape[0]):
                    g = grad[ch, k, r, c]
                    j = ch * cube + i
                    _scatter(grad_flat, j, 1, row, slab, fx, fy, fz, g)
                    if needs_rotation:
                        _add_ray_grad(flat, j, 1, row, slab, fx, fy, fz, g, a, grad_start, grad_step)
            if needs_rotation:
                _add_rotation_grad(grad_rotation, d, origin, slope, grad_start, grad_step)


@compiled
@no_type_check
def _add_rotation_grad(grad_rotation, d, origin, slope, grad_start, grad_step):
    dtype = grad_rotation.dtype.type
    for i in range(3):
        for j in range(3):
            grad_rotation[i, j] += dtype(d) * (origin[i] * grad_start[j] + slope[i] * grad_step[j])


@compiled
@no_type_check
def fill_cells(volume, cells):
    """Store occupancy and its central differences along x, y and z side by side, with those of the border extended."""
    d = volume.shape[1] - 2
    half = volume.dtype.type(0.5)
    n = 0
    for z in range(d + 2):
        for y in range(d + 2):
            for x in range(d + 2):
                k, j, i = min(max(z, 1), d), min(max(y, 1), d), min(max(x, 1), d)
                cells[n, 0] = volume[0, z, y, x]
                cells[n, 1] = half * (volume[0, k, j, i + 1] - volume[0, k, j, i - 1])
                cells[n, 2] = half * (volume[0, k, j + 1, i] - volume[0, k, j - 1, i])
                cells[n, 3] = half * (volume[0, k + 1, j, i] - volume[0, k - 1, j, i])
                n += 1


@compiled
@no_type_check
def _add_cells_grad(grad_cells, grad_volume):
    """Add the gradient of the arguments of :func:`fill_cells`."""
    d = grad_volume.shape[1] - 2
    half = grad_volume.dtype.type(0.5)
    n = 0
    for z in range(d + 2):
        for y in range(d + 2):
            for x in range(d + 2):
                k, j, i = min(max(z, 1), d), min(max(y, 1), d), min(max(x, 1), d)
                gx, gy, gz = half * grad_cells[n, 1], half * grad_cells[n, 2], half * grad_cells[n, 3]
                grad_volume[0, z, y, x] += grad_cells[n, 0]
                grad_volume[0, k, j, i + 1] += gx
                grad_volume[0, k, j, i - 1] -= gx
                grad_volume[0, k, j + 1, i] += gy
                grad_volume[0, k, j - 1, i] -= gy
                grad_volume[0, k + 1, j, i] += gz
                grad_volume[0, k - 1, j, i] -= gz
                n += 1


# numba does not vectorize the four channels of a cell. These vectors make the surface kernels 1.4 times as fast.


def _corners(context, builder, cells_type, args):
    """Return the type of four channels, pointers to the eight voxels around a sample (x fastest), and their alignment."""
    cells, i, row, slab = args
    element = context.get_data_type(cells_type.dtype)
    vector = ir.VectorType(element, 4)
    data = builder.bitcast(context.make_array(cells_type)(context, builder, cells).data, vector.as_pointer())
    offsets = [i]
    for step in (slab, row, ir.Constant(i.type, 1)):
        offsets = [x for offset in offsets for x in (offset, builder.add(offset, step))]
    return vector, [builder.gep(data, [offset]) for offset in offsets], context.get_abi_sizeof(element)


def _vector(builder, vector, elements):
    result = ir.Constant(vector, ir.Undefined)
    for k, element in enumerate(elements):
        result = builder.insert_element(result, element, ir.Constant(ir.IntType(32), k))
    return result


@intrinsic
def _sample_cells(_, cells, i, row, slab, fx, fy, fz):
    """Compute :func:`_trilinear` of the four channels of ``cells``, an array ``(E³, 4)``."""

    def codegen(context, builder, signature, args):
        vector, pointers, alignment = _corners(context, builder, signature.args[0], args[:4])
        values = [builder.load(pointer, align=alignment) for pointer in pointers]
        for fraction in args[4:]:
            f = _vector(builder, vector, [fraction] * 4)
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [builder.fadd(a, builder.fmul(f, builder.fsub(b, a))) for a, b in pairs]
        channels = [builder.extract_element(values[0], ir.Constant(ir.IntType(32), k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, channels)

    index, real = [types.int64] * 3, cells.dtype
    return types.UniTuple(real, 4)(cells, *index, real, real, real), codegen


@intrinsic
def _scatter_cells(_, cells, i, row, slab, fx, fy, fz, g0, g1, g2, g3):
    """Compute :func:`_scatter` for the four channels of ``cells``, an array ``(E³, 4)``."""

    def codegen(context, builder, signature, args):
        vector, pointers, alignment = _corners(context, builder, signature.args[0], args[:4])
        parts = [_vector(builder, vector, args[7:])]
        for fraction in args[6:3:-1]:
            f = _vector(builder, vector, [fraction] * 4)
            far = [builder.fmul(part, f) for part in parts]
            pairs = zip(parts, far, strict=True)
            parts = [x for part, share in pairs for x in (builder.fsub(part, share), share)]
        for pointer, part in zip(pointers, parts, strict=True):
            builder.store(builder.fadd(builder.load(pointer, align=alignment), part), pointer, align=alignment)
        return context.get_dummy_value()

    index, real = [types.int64] * 3, cells.dtype
    return types.void(cells, *index, *[real] * 7), codegen


@compiled
@no_type_check
def surface_forward(cells, d, rotation, samples, perspective, half_extent, distance, density, opaque, alpha, sums):
    dtype = rotation.dtype.type
    size, row, slab = alpha.shape[1], d + 2, (d + 2) * (d + 2)
    one = dtype(1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    for r in range(size):
        for c in range(size):
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, samples)
            transmittance, sx, sy, sz, depth = one, dtype(0), dtype(0), dtype(0), dtype(0)
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(samples) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                occupancy, nx, ny, nz = _sample_cells(cells, i, row, slab, fx, fy, fz)
                v = density * occupancy
                w = transmittance * v
                sx += w * nx
                sy += w * ny
                sz += w * nz
                depth += w * a
                transmittance *= one - v
                if abs(transmittance) < opaque:
                    break
            alpha[0, r, c] = one - transmittance
            sums[0, r, c], sums[1, r, c], sums[2, r, c], sums[3, r, c] = sx, sy, sz, depth


@compiled
@no_type_check
def surface_backward(
    cells,
    d,
    rotation,
    samples,
    perspective,
    half_extent,
    distance,
    density,
    opaque,
    needs_rotation,
    grad_alpha,
    grad_sums,
    grad_cells,
    grad_volume,
    grad_rotation,
):
    dtype = rotation.dtype.type
    size, row, slab = grad_alpha.shape[1], d + 2, (d + 2) * (d + 2)
    one = dtype(1)
    flat = cells.reshape(-1)
    origin, slope, start, step = np.empty((4, 3), rotation.dtype)
    grad_start, grad_step = np.empty((2, 3), rotation.dtype)
    index = np.empty(samples, np.int32)
    xs, ys, zs, vs, ts, es = np.empty((6, samples), rotation.dtype)
    for r in range(size):
        for c in range(size):
            ga, gx, gy, gz = grad_alpha[0, r, c], grad_sums[0, r, c], grad_sums[1, r, c], grad_sums[2, r, c]
            gd = grad_sums[3, r, c]
            if ga == 0 and gx == 0 and gy == 0 and gz == 0 and gd == 0:
                continue
            x, y = dtype(2 * c + 1) / dtype(size) - one, one - dtype(2 * r + 1) / dtype(size)
            _ray(rotation, x, y, perspective, half_extent, distance, d, origin, slope, start, step)
            first, last = _sample_range(start, step, d, samples)
            # The derivative of the last visible samples depends on those that they hide, up to the next opaque matter.
            transmittance, behind = one, one
            n = visible = 0
            for k in range(first, last):
                a = dtype(2 * k + 1) / dtype(samples) - one
                i, fx, fy, fz = _locate(start, step, a, d)
                occupancy, nx, ny, nz = _sample_cells(cells, i, row, slab, fx, fy, fz)
                v = density * occupancy
                index[n], xs[n], ys[n], zs[n], vs[n], ts[n] = i, fx, fy, fz, v, transmittance
                es[n] = ga + gx * nx + gy * ny + gz * nz + gd * a
                n += 1
                if abs(transmittance) >= opaque:
                    visible = n
                    transmittance *= one - v
                else:
                    behind *= one - v
                    if abs(behind) < opaque:
                        break
            grad_behind = dtype(0)
            for m in range(n - 1, visible - 1, -1):
                grad_behind = vs[m] * es[m] + (one - vs[m]) * grad_behind
            grad_start[:] = 0
            grad_step[:] = 0
            for m in range(visible - 1, -1, -1):
                i, fx, fy, fz, v, t = index[m], xs[m], ys[m], zs[m], vs[m], ts[m]
                w, g = t * v, density * t * (es[m] - grad_behind)
                grad_behind = v * es[m] + (one - v) * grad_behind
                upstream = (g, w * gx, w * gy, w * gz)
                _scatter_cells(grad_cells, i, row, slab, fx, fy, fz, *upstream)
                if needs_rotation:
                    a = dtype(2 * (first + m) + 1) / dtype(samples) - one
                    for ch in range(4):
                        _add_ray_grad(
                            flat, 4 * i + ch, 4, 4 * row, 4 * slab, fx, fy, fz, upstream[ch], a, grad_start, grad_step
                        )
            if needs_rotation:
                _add_rotation_grad(grad_rotation, d, origin, slope, grad_start, grad_step)
    _add_cells_grad(grad_cells, grad_volume)
