// Ray casting through binary voxel grids. A cell joins eight voxel centres; its 8-bit code says which voxels are solid.
//
// The code has few branches: drivers such as llvmpipe run both branches of an `if` for all lanes, except for loops.
// It uses int instead of uint, since CPUs without unsigned conversions need six instructions for one.

uniform usampler3D codes;       // one byte per cell, grid after grid along z
uniform usampler2D cells;       // half-spaces of each code, see packed_cells in marching_cubes_table.py
uniform sampler2D views;        // four texels per grid: right, up, back; least depth and slices per unit of depth
uniform isampler2D rays;        // see cull_rays in ray_culling_numba.py
uniform int depth_of_grid;      // cells along z from one grid to the next
uniform float voxels;           // D
uniform float origin;           // cell coordinate of the cube's lower face
uniform float pixels;           // image size
uniform float camera_distance;
uniform float half_extent;
uniform bool perspective;
uniform bool cubes;
uniform float pixel_size;       // width of a pixel in cells; of a perspective camera, at depth 1

const float NEVER = 1e9;
// Distances in pixels between a ray and the edge of a surface that it misses. Samples are up to 0.4 pixels from the
// centre: an edge within CLOSE may cut this pixel, and one within SPARED does not cut the next pixel.
const float SPARED = 0.3, CLOSE = 0.5;

// Points o + t d in cells at depth start + t, for t in [0, end].
struct Ray { vec3 o; vec3 d; vec3 inverse; float start; float end; mat3 axes; };

// Ray through the point `offset` in [0, 1]² of a listed pixel.
Ray ray_at(ivec4 listed, vec2 offset) {
    vec2 position = vec2(listed.x & 0xFFFF, listed.x >> 16) + offset;
    vec2 xy = vec2(position.x, pixels - position.y) * (2.0 / pixels) - 1.0;
    float start = intBitsToFloat(listed.w);
    vec3 o = perspective ? vec3(xy * half_extent * start, camera_distance - start) : vec3(xy, camera_distance - start);
    vec3 d = perspective ? vec3(xy * half_extent, -1.0) : vec3(0.0, 0.0, -1.0);
    Ray ray;
    mat3 axes = mat3(texelFetch(views, ivec2(0, listed.y), 0).xyz, texelFetch(views, ivec2(1, listed.y), 0).xyz,
                     texelFetch(views, ivec2(2, listed.y), 0).xyz);
    ray.axes = axes;
    ray.o = (axes * o + 0.5) * voxels + origin;
    ray.d = axes * d * voxels;
    ray.d = mix(ray.d, vec3(1e-4), lessThan(abs(ray.d), vec3(1e-4)));
    ray.inverse = 1.0 / ray.d;
    // Clip to the cells of this grid that can have surface; the next grid is right behind them.
    vec3 a = (1e-3 - ray.o) * ray.inverse, b = (voxels + 1.0 - ray.o) * ray.inverse;
    vec3 low = min(a, b), high = max(a, b);
    float outside = max(max(max(low.x, low.y), low.z) + 1e-6, 0.0);
    ray.start = start + outside;
    ray.o += ray.d * outside;
    ray.end = min(min(high.x, high.y), high.z) - outside;
    return ray;
}

int code_at(vec3 cell, int base) { return int(texelFetch(codes, ivec3(cell) + ivec3(0, 0, base), 0).r); }

float max3(vec3 v) { return max(max(v.x, v.y), v.z); }

// t:      first intersection with the surface, or NEVER.
// close:  first t at which the surface is within CLOSE, or NEVER.
// spared: negative if a surface that the ray misses is within SPARED.
struct Hit { float t; float close; float spared; };

// Walk through cells in the depth slices that have surface, up to the first hit. With a finite `reach`, also compute
// `close` and `spared`, and stop at a distance of `reach` behind `close`.
Hit trace(Ray ray, ivec4 listed, float reach) {
    int slices = listed.z, base = listed.y * depth_of_grid;
    vec2 slicing = texelFetch(views, ivec2(3, listed.y), 0).xy;
    vec3 o = ray.o, d = ray.d, inverse = ray.inverse, ahead = step(0.0, d);
    vec3 c = floor(o);
    float t = 0.0;
    Hit hit = Hit(NEVER, NEVER, NEVER);
    for (int i = 0; i < 4096 && t < ray.end; i++) {
        int code = code_at(c, base);
        ivec4 cell = ivec4(texelFetch(cells, ivec2(code, 0), 0));
        vec3 away = (c + ahead - o) * inverse;
        float leave = min(min(away.x, away.y), away.z);
        // Intersect the ray with three half-spaces at once: it is inside all of them in [t0, t1].
        vec3 nx = vec3(cell.xyz & 7) - 2.0, ny = vec3((cell.xyz >> 3) & 7) - 2.0;
        vec3 nz = vec3((cell.xyz >> 6) & 7) - 2.0, offset = vec3((cell.xyz >> 9) & 31) * 0.5 - 8.0;
        vec3 p = o - c;
        vec3 value = nx * p.x + ny * p.y + nz * p.z - offset, slope = nx * d.x + ny * d.y + nz * d.z;
        slope = mix(slope, vec3(1e-6), lessThan(abs(slope), vec3(1e-6)));
        vec3 crossing = -value / slope;
        bvec3 enters = lessThan(slope, vec3(0.0));
        vec3 from = mix(vec3(-NEVER), crossing, enters), to = mix(crossing, vec3(NEVER), enters);
        float t0 = max(max(from.x, from.y), from.z), t1 = min(min(to.x, to.y), to.z);
        // [t0, t1] is solid, or for a union of half-spaces it is empty and the rest is solid.
        bool is_union = cell.w != 0;
        float at = is_union ? (t0 > t + 1e-6 || t1 <= t ? t : t1) : max(t0, t);
        float limit = is_union ? leave : min(leave, t1);
        bool hits = at <= limit + 1e-6;
        if (reach < NEVER) {
            // Distance between the ray and the solid part: at least that to the farthest plane. It is compared squared,
            // with its sign, scaled by the squared component of the plane's normal across the ray. Unknown for a union.
            vec3 gap = value + min(slope * t, slope * leave), across = vec3(cell.xyz >> 14) - slope * slope / dot(d, d);
            float width = perspective ? pixel_size * (ray.start + t) : pixel_size;
            gap *= abs(gap);
            across *= width * width;
            hit.spared = min(hit.spared, hits || is_union ? NEVER : max3(gap - across * (SPARED * SPARED)));
            bool close = hits || is_union || max3(gap - across * (CLOSE * CLOSE)) < 0.0;
            hit.close = min(hit.close, close ? t : NEVER);
        }
        if (hits) { hit.t = at; break; }
        t = leave;
        c += mix(vec3(0.0), 2.0 * ahead - 1.0, lessThanEqual(away, vec3(t)));
        // Skip to the next slice that has surface.
        int slice = clamp(int((ray.start + t - slicing.x) * slicing.y), 0, 31), left = slices >> slice;
        if (left == 0 || reach < NEVER && t > hit.close + reach) break;
        if ((left & 1) == 0) {
            int empty = (floatBitsToInt(float(left & -left)) >> 23) - 127;  // number of trailing zeros
            t = float(slice + empty) / slicing.y + slicing.x - ray.start + 2e-6;
            c = floor(o + d * t);
        }
    }
    return hit;
}

// Trilinearly interpolated occupancy.
float occupancy(vec3 p, int base) {
    vec3 cell = floor(p), f = p - cell;
    int k = code_at(cell, base);
    vec4 low = vec4(k & 1, (k >> 2) & 1, (k >> 4) & 1, (k >> 6) & 1);
    vec4 high = vec4((k >> 1) & 1, (k >> 3) & 1, (k >> 5) & 1, (k >> 7) & 1);
    vec4 x = mix(low, high, f.x);
    vec2 y = mix(x.xz, x.yw, f.y);
    return mix(y.x, y.y, f.z);
}

// Unit normal in the camera frame at the ray's point t.
vec3 normal_at(Ray ray, float t, int base) {
    vec3 p = ray.o + ray.d * t, n;
    if (cubes) {
        vec3 from = p - floor(p + ray.d * 1e-5) - 0.5, side = abs(from);
        n = side.x > side.y && side.x > side.z ? vec3(1, 0, 0) : side.y > side.z ? vec3(0, 1, 0) : vec3(0, 0, 1);
        n *= sign(from);
    } else {
        const vec2 e = vec2(0.75, 0.0);
        n = vec3(occupancy(p - e.xyy, base) - occupancy(p + e.xyy, base),
                 occupancy(p - e.yxy, base) - occupancy(p + e.yxy, base),
                 occupancy(p - e.yyx, base) - occupancy(p + e.yyx, base));
    }
    return normalize(n * ray.axes + vec3(0.0, 0.0, 1e-6));
}
