"""The shaders of :mod:`renderers.opengl.voxel_raycast.raycaster`.

Written for drivers that run every branch of an ``if`` for all lanes (llvmpipe does): loops are the only real branches.
"""

# One triangle over all of the frame: two would both shade the blocks of pixels that their common edge runs through.
WHOLE = """
#version 330
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }
"""

SHADE = """
#version 330
uniform float ambient;
uniform int light_count;
uniform vec4 lights[8];         // unit direction, camera frame; intensity
float shade(vec3 normal) {
    float light = ambient;
    for (int i = 0; i < light_count; i++) light += lights[i].w * max(0.0, dot(lights[i].xyz, normal));
    return min(light, 1.0);
}
"""

MARCH = (
    SHADE
    + """
uniform usampler3D codes;
uniform usampler2D cells;
uniform sampler2D views;        // four texels a grid: right, up, back; least depth and slices a unit of depth
uniform isampler2D rays;        // see kernels/list_numba.py
uniform int depth_of_grid;      // cells along z from one grid to the next
uniform float voxels;           // D
uniform float origin;           // cell coordinate of the cube's lower face
uniform float pixels;           // image size
uniform float camera_distance;
uniform float half_extent;
uniform bool perspective;
uniform bool cubes;
uniform float pixel;            // its width in cells; of a perspective camera, at depth 1

const float NEVER = 1e9;
// Pixels between a ray and the end of a surface that it passes by. Samples lie 0.4 from the pixel's centre, so CLOSE may cut
// this pixel, and what is nearer than SPARED spares the next pixel.
const float SPARED = 0.3, CLOSE = 0.5;
struct Ray { vec3 o; vec3 d; vec3 inverse; float start; float end; mat3 axes; };  // depth start + t; in cells, o + t d

Ray ray_at(ivec4 place, vec2 within) {
    vec2 pixel = vec2(place.x & 0xFFFF, place.x >> 16) + within, xy = vec2(pixel.x, pixels - pixel.y) * (2.0 / pixels) - 1.0;
    float start = intBitsToFloat(place.w);
    vec3 o = perspective ? vec3(xy * half_extent * start, camera_distance - start) : vec3(xy, camera_distance - start);
    vec3 d = perspective ? vec3(xy * half_extent, -1.0) : vec3(0.0, 0.0, -1.0);
    Ray ray;
    mat3 axes = mat3(texelFetch(views, ivec2(0, place.y), 0).xyz, texelFetch(views, ivec2(1, place.y), 0).xyz,
                     texelFetch(views, ivec2(2, place.y), 0).xyz);
    ray.axes = axes;
    ray.o = (axes * o + 0.5) * voxels + origin;
    ray.d = axes * d * voxels;
    ray.d = mix(ray.d, vec3(1e-4), lessThan(abs(ray.d), vec3(1e-4)));
    ray.inverse = 1.0 / ray.d;
    // Not beyond the cells that can have surface, where the next grid begins.
    vec3 a = (1e-3 - ray.o) * ray.inverse, b = (voxels + 1.0 - ray.o) * ray.inverse;
    vec3 low = min(a, b), high = max(a, b);
    float outside = max(max(max(low.x, low.y), low.z) + 1e-6, 0.0);
    ray.start = start + outside;
    ray.o += ray.d * outside;
    ray.end = min(min(high.x, high.y), high.z) - outside;
    return ray;
}

// Everything is int, not uint, from here on: processors without unsigned conversions need six instructions for one.
int code_at(vec3 cell, int base) { return int(texelFetch(codes, ivec3(cell) + ivec3(0, 0, base), 0).r); }

float most(vec3 v) { return max(max(v.x, v.y), v.z); }

struct Hit { float t; float close; float spared; };  // the surface; see march

// Through cells of the slices that have surface, from the ray's start to the first hit. With a `reach`, only so far behind
// where surface is CLOSE first, and also that place, and a negative number if what is passed by is ever so close as SPARED.
Hit march(Ray ray, ivec4 place, float reach) {
    int slices = place.z, base = place.y * depth_of_grid;
    vec2 slicing = texelFetch(views, ivec2(3, place.y), 0).xy;
    vec3 o = ray.o, d = ray.d, inverse = ray.inverse, ahead = step(0.0, d);
    vec3 c = floor(o);
    float t = 0.0;
    Hit hit = Hit(NEVER, NEVER, NEVER);
    for (int i = 0; i < 4096 && t < ray.end; i++) {
        int code = code_at(c, base);
        ivec4 cell = ivec4(texelFetch(cells, ivec2(code, 0), 0));
        vec3 away = (c + ahead - o) * inverse;
        float leave = min(min(away.x, away.y), away.z);
        // Three half-spaces at once: where the ray enters and leaves what is common to them.
        vec3 nx = vec3(cell.xyz & 7) - 2.0, ny = vec3((cell.xyz >> 3) & 7) - 2.0;
        vec3 nz = vec3((cell.xyz >> 6) & 7) - 2.0, offset = vec3((cell.xyz >> 9) & 31) * 0.5 - 8.0;
        vec3 p = o - c;
        vec3 value = nx * p.x + ny * p.y + nz * p.z - offset, slope = nx * d.x + ny * d.y + nz * d.z;
        slope = mix(slope, vec3(1e-6), lessThan(abs(slope), vec3(1e-6)));
        vec3 crossing = -value / slope;
        bvec3 enters = lessThan(slope, vec3(0.0));
        vec3 from = mix(vec3(-NEVER), crossing, enters), to = mix(crossing, vec3(NEVER), enters);
        float t0 = max(max(from.x, from.y), from.z), t1 = min(min(to.x, to.y), to.z);
        // [t0, t1] is solid, or for an OR it is empty and all else solid.
        bool either = cell.w != 0;
        float at = either ? (t0 > t + 1e-6 || t1 <= t ? t : t1) : max(t0, t);
        float limit = either ? leave : min(leave, t1);
        bool hits = at <= limit + 1e-6;
        if (reach < NEVER) {
            // How far beside the solid part the ray stays: no less than beside the farthest plane. Squared, with the sign,
            // and times what of the plane's normal lies across the ray, squared. An OR's gap is not known.
            vec3 gap = value + min(slope * t, slope * leave), across = vec3(cell.xyz >> 14) - slope * slope / dot(d, d);
            float wide = perspective ? pixel * (ray.start + t) : pixel;
            gap *= abs(gap);
            across *= wide * wide;
            hit.spared = min(hit.spared, hits || either ? NEVER : most(gap - across * (SPARED * SPARED)));
            hit.close = min(hit.close, hits || either || most(gap - across * (CLOSE * CLOSE)) < 0.0 ? t : NEVER);
        }
        if (hits) { hit.t = at; break; }
        t = leave;
        c += mix(vec3(0.0), 2.0 * ahead - 1.0, lessThanEqual(away, vec3(t)));
        // On to the next slice that has surface.
        int slice = clamp(int((ray.start + t - slicing.x) * slicing.y), 0, 31), left = slices >> slice;
        if (left == 0 || reach < NEVER && t > hit.close + reach) break;
        if ((left & 1) == 0) {
            int empty = (floatBitsToInt(float(left & -left)) >> 23) - 127;  // its zeros on the right
            t = float(slice + empty) / slicing.y + slicing.x - ray.start + 2e-6;
            c = floor(o + d * t);
        }
    }
    return hit;
}

float occupancy(vec3 p, int base) {
    vec3 cell = floor(p), f = p - cell;
    int k = code_at(cell, base);
    vec4 low = vec4(k & 1, (k >> 2) & 1, (k >> 4) & 1, (k >> 6) & 1);
    vec4 high = vec4((k >> 1) & 1, (k >> 3) & 1, (k >> 5) & 1, (k >> 7) & 1);
    vec4 x = mix(low, high, f.x);
    vec2 y = mix(x.xz, x.yw, f.y);
    return mix(y.x, y.y, f.z);
}

vec3 normal_at(Ray ray, float t, int base) {  // camera frame
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
"""
)

# The pass over listed pixels: one ray through each one's centre. Where it runs clear, that is the pixel; where it passes
# closely by a surface the second pass takes four samples. See kernels/bring_numba.py for what alpha tells.
CENTRE = (
    MARCH
    + """
uniform int blocks;                      // of 4x4 pixels across the sheet
layout(location = 0) out vec4 image;   // shade, alpha, depth: 0 to 1 through the unit ball
layout(location = 1) out vec4 surface;   // normal, depth
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    int n = ((at.y >> 2) * blocks + (at.x >> 2)) * 16 + (at.y & 3) * 4 + (at.x & 3);
    ivec4 place = texelFetch(rays, ivec2(n & 0xFFF, n >> 12), 0);
    Ray ray = ray_at(place, vec2(0.5));
    float reach = 3.0 / voxels;  // what is steeper is an edge
    Hit hit = march(ray, place, reach);
    bool seen = hit.t < NEVER && hit.t <= hit.close + reach;
    vec3 normal = normal_at(ray, seen ? hit.t : 0.0, place.y * depth_of_grid);
    float unclear = hit.close < NEVER ? (hit.spared < 0.0 ? 128.0 : 64.0) / 255.0 : 0.0;
    float depth = 0.5 * (ray.start + hit.t - camera_distance) + 0.5;
    image = seen ? vec4(shade(normal), 1.0, depth, 1.0) : vec4(0.0, unclear, 0.0, 1.0);
    surface = vec4(normal, ray.start + hit.t);
}
"""
)

# The pass over a list of marked pixels: one fragment a sample, a square of four to a pixel so that they run alike.
SAMPLES = (
    MARCH
    + """
out vec4 surface;               // normal, depth; depth 0 where nothing is hit
// Where 4x multisampling has them.
const vec2 PLACES[4] = vec2[](vec2(0.375, 0.875), vec2(0.875, 0.625), vec2(0.125, 0.375), vec2(0.625, 0.125));
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    ivec4 place = texelFetch(rays, ivec2((at.x & ~1) + ((at.y >> 1) & 1), at.y >> 2), 0);
    Ray ray = ray_at(place, PLACES[(at.x & 1) + 2 * (at.y & 1)]);
    Hit hit = march(ray, place, NEVER);
    bool seen = hit.t < NEVER;
    surface = seen ? vec4(normal_at(ray, hit.t, place.y * depth_of_grid), ray.start + hit.t) : vec4(0.0);
}
"""
)

# Four samples to a pixel.
RESOLVE = (
    SHADE
    + """
uniform sampler2D samples;
uniform float step_apart;       // depths further apart than this are of two surfaces
layout(location = 0) out vec4 image;   // shade times alpha, alpha
layout(location = 1) out vec4 surface;   // direction of the mean normal, mean depth of the nearest surface
vec4 sample_of(ivec2 at, int i) {
    return texelFetch(samples, ivec2((at.x & ~1) + (i & 1), 4 * at.y + 2 * (at.x & 1) + (i >> 1)), 0);
}
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    vec3 normal = vec3(0.0);
    float covered = 0.0, nearest = 1e9, depth = 0.0, count = 0.0;
    for (int i = 0; i < 4; i++) {
        vec4 one = sample_of(at, i);
        if (one.w > 0.0) { covered += 0.25; normal += one.xyz; nearest = min(nearest, one.w); }
    }
    for (int i = 0; i < 4; i++) {
        float one = sample_of(at, i).w;
        if (one > 0.0 && one < nearest + step_apart) { depth += one; count += 1.0; }
    }
    normal = covered > 0.0 ? normalize(normal) : vec3(0.0);
    image = vec4(shade(normal) * covered, covered, 0.0, 1.0);
    surface = vec4(normal, depth / max(count, 1.0));
}
"""
)
