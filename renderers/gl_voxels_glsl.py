"""The shaders of :mod:`renderers.gl_voxels`.

Written for drivers that run every branch of an ``if`` for all lanes (llvmpipe does): loops are the only real branches, so
rays skip what is empty in one loop and test cells with surface in another.
"""

BANDS = """
#version 330
uniform sampler2D views;   // five texels a grid: right, up, back; box low, box high
uniform vec2 frame;        // in tiles
in vec2 corner;
in vec2 band;              // its grid, and tiles in it
flat out int grid;
flat out mat3 axes;
flat out vec3 box_low;
flat out vec3 box_high;
void main() {
    grid = int(band.x);
    axes = mat3(texelFetch(views, ivec2(0, grid), 0).xyz, texelFetch(views, ivec2(1, grid), 0).xyz,
                texelFetch(views, ivec2(2, grid), 0).xyz);
    box_low = texelFetch(views, ivec2(3, grid), 0).xyz;
    box_high = texelFetch(views, ivec2(4, grid), 0).xyz;
    vec2 at = vec2(corner.x * band.y, corner.y + float(gl_InstanceID));
    gl_Position = vec4(2.0 * at / frame - 1.0, 0.0, 1.0);
}
"""

WHOLE = """
#version 330
in vec2 corner;
void main() { gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0); }
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
uniform usampler3D steps;
uniform usampler2D cells;
uniform int depth_of_grid;      // cells along z from one grid to the next
uniform float voxels;           // D
uniform float origin;           // cell coordinate of the cube's lower face
uniform float pixels;           // image size
uniform float camera_distance;
uniform float half_extent;
uniform bool perspective;
uniform bool cubes;

const float NEVER = 1e9;
struct Ray { vec3 o; vec3 d; vec3 inverse; float start; float end; };  // depth = start + t; cell coordinates o + t d

Ray ray_at(vec2 pixel, mat3 axes, vec3 box_low, vec3 box_high) {
    vec2 xy = vec2(pixel.x, pixels - pixel.y) * (2.0 / pixels) - 1.0;
    vec3 o = perspective ? vec3(0.0, 0.0, camera_distance) : vec3(xy, camera_distance);
    vec3 d = perspective ? vec3(xy * half_extent, -1.0) : vec3(0.0, 0.0, -1.0);
    Ray ray;
    o = (axes * o + 0.5) * voxels + origin;
    ray.d = axes * d * voxels;
    ray.d = mix(ray.d, vec3(1e-4), lessThan(abs(ray.d), vec3(1e-4)));
    ray.inverse = 1.0 / ray.d;
    vec3 a = (box_low - o) * ray.inverse, b = (box_high - o) * ray.inverse;
    vec3 low = min(a, b), high = max(a, b);
    ray.start = max(max(low.x, low.y), low.z) + 1e-6;
    ray.end = min(min(high.x, high.y), high.z) - ray.start;
    ray.o = o + ray.d * ray.start;
    return ray;
}

// Everything is int, not uint, from here on: processors without unsigned conversions need six instructions for one.
int code_at(vec3 cell, int base) { return int(texelFetch(codes, ivec3(cell) + ivec3(0, 0, base), 0).r); }

struct Hit { float t; float first; float last; };  // the surface; where cells with surface were entered first and left last

Hit march(Ray ray, float t, float end, int base) {
    vec3 o = ray.o, d = ray.d, inverse = ray.inverse, ahead = step(0.0, d);
    vec3 c = floor(o + d * t);
    Hit hit = Hit(NEVER, NEVER, -NEVER);
    for (int i = 0; i < 4096; i++) {
        int code = 0;
        for (int j = 0; j < 4096; j++) {  // to the next cell with surface: the cheap loop, which neighbours leave together
            code = code_at(c, base);
            if (code != 0 || t >= end) break;
            int known = int(texelFetch(steps, (ivec3(c) + ivec3(0, 0, base)) >> 1, 0).r);
            // Across all that is known to be empty around this cell.
            int shift = min(known, 2), around = (known >> 1 & known) << 2;
            ivec3 low = ivec3(c) >> shift << shift;
            vec3 away = (vec3(low) - o + mix(vec3(-around), vec3((1 << shift) + around), ahead)) * inverse;
            t = min(min(away.x, away.y), away.z) + 2e-6;
            c = floor(o + d * t);
        }
        if (t >= end) break;
        ivec4 cell = ivec4(texelFetch(cells, ivec2(code, 0), 0));
        vec3 away = (c + ahead - o) * inverse;
        float leave = min(min(away.x, away.y), away.z);
        // Three half-spaces at once: where the ray enters and leaves what is common to them.
        vec3 nx = vec3(cell.xyz & 7) - 2.0, ny = vec3((cell.xyz >> 3) & 7) - 2.0;
        vec3 nz = vec3((cell.xyz >> 6) & 7) - 2.0, offset = vec3(cell.xyz >> 9) * 0.5 - 8.0;
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
        hit.first = min(hit.first, t); hit.last = leave;
        if (at <= limit + 1e-6) { hit.t = at; break; }
        t = leave;
        c += mix(vec3(0.0), 2.0 * ahead - 1.0, lessThanEqual(away, vec3(t)));
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

vec3 normal_at(Ray ray, float t, mat3 axes, int base) {  // camera frame
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
    return normalize(n * axes + vec3(0.0, 0.0, 1e-6));
}
"""
)

# The pass over tiles: one ray through each pixel's centre. Where it runs clear, that is the pixel; where it passes close by
# a surface the pixel is marked, and the second pass takes four samples there.
CENTRE = (
    MARCH
    + """
flat in int grid;
flat in mat3 axes;
flat in vec3 box_low;
flat in vec3 box_high;
uniform bool everywhere;
uniform sampler2D tiles;                 // column, row, least and greatest depth of the surface
layout(location = 0) out vec4 picture;   // shade, 1; or 0, 0.5 where four samples are needed
layout(location = 1) out vec4 stretch;   // depths that those samples must search between
layout(location = 2) out vec4 surface;   // normal, depth
void main() {
    vec4 tile = texelFetch(tiles, ivec2(gl_FragCoord.xy) >> 2, 0);
    int base = grid * depth_of_grid;
    Ray ray = ray_at(tile.xy * 4.0 + mod(gl_FragCoord.xy, 4.0), axes, box_low, box_high);
    Hit hit = march(ray, max(0.0, tile.z - ray.start), min(ray.end, tile.w - ray.start), base);
    float margin = 1.5 / voxels;
    bool seen = hit.t < NEVER;
    bool close = everywhere || (seen ? (hit.t - hit.first) * voxels > 2.0 : hit.first < NEVER);
    vec3 normal = normal_at(ray, seen ? hit.t : 0.0, axes, base);
    bool clear = seen && !close;
    picture = clear ? vec4(shade(normal), 1.0, 0.0, 1.0) : vec4(0.0, close ? 0.5 : 0.0, 0.0, 1.0);
    stretch = everywhere ? vec4(tile.zw, 0.0, 1.0)
        : vec4(ray.start + hit.first - margin, seen ? tile.w : ray.start + hit.last + margin, 0.0, 1.0);
    surface = clear ? vec4(normal, ray.start + hit.t) : vec4(0.0);
}
"""
)

# The pass over a list of marked pixels: one fragment a sample, a square of four to a pixel so that they run alike.
SAMPLES = (
    MARCH
    + """
flat in int grid;
flat in mat3 axes;
flat in vec3 box_low;
flat in vec3 box_high;
uniform sampler2D tiles;
uniform usampler2D list;        // places in the sheet of the first pass
uniform sampler2D stretches;
out vec4 surface;               // normal, depth; depth 0 where nothing is hit
// Where 4x multisampling has them.
const vec2 PLACES[4] = vec2[](vec2(0.375, 0.875), vec2(0.875, 0.625), vec2(0.125, 0.375), vec2(0.625, 0.125));
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    ivec2 where = ivec2(texelFetch(list, ivec2((at.x & ~1) + ((at.y >> 1) & 1), at.y >> 2), 0).rg);
    int base = grid * depth_of_grid;
    vec2 tile = texelFetch(tiles, where >> 2, 0).xy, between = texelFetch(stretches, where, 0).xy;
    Ray ray = ray_at(tile * 4.0 + vec2(where & 3) + PLACES[(at.x & 1) + 2 * (at.y & 1)], axes, box_low, box_high);
    Hit hit = march(ray, max(0.0, between.x - ray.start), min(ray.end, between.y - ray.start), base);
    bool seen = hit.t < NEVER;
    surface = seen ? vec4(normal_at(ray, hit.t, axes, base), ray.start + hit.t) : vec4(0.0);
}
"""
)

# Four samples to a pixel.
RESOLVE = (
    SHADE
    + """
uniform sampler2D samples;
uniform float step_apart;       // depths further apart than this are of two surfaces
layout(location = 0) out vec4 picture;   // shade times alpha, alpha
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
    picture = vec4(shade(normal) * covered, covered, 0.0, 1.0);
    surface = vec4(normal, depth / max(count, 1.0));
}
"""
)
