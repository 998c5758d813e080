// First pass: one ray through the centre of each listed pixel. An unambiguous ray determines the pixel. A ray close to an
// edge marks the pixel for the second pass; see readback.py for the values of alpha.

uniform int blocks;                      // number of 4x4 blocks of pixels across the atlas
layout(location = 0) out vec4 image;     // shade, alpha, depth (0 to 1 through the unit ball)
layout(location = 1) out vec4 surface;   // normal, depth

void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    int n = ((at.y >> 2) * blocks + (at.x >> 2)) * 16 + (at.y & 3) * 4 + (at.x & 3);
    ivec4 listed = texelFetch(rays, ivec2(n & 0xFFF, n >> 12), 0);
    Ray ray = ray_at(listed, vec2(0.5));
    float reach = 3.0 / voxels;  // depth from `close` to the hit; a steeper surface is treated as an edge
    Hit hit = trace(ray, listed, reach);
    bool visible = hit.t < NEVER && hit.t <= hit.close + reach;
    vec3 normal = normal_at(ray, visible ? hit.t : 0.0, listed.y * depth_of_grid);
    float mark = hit.close < NEVER ? (hit.spared < 0.0 ? 128.0 : 64.0) / 255.0 : 0.0;
    float depth = 0.5 * (ray.start + hit.t - camera_distance) + 0.5;
    image = visible ? vec4(shade(normal), 1.0, depth, 1.0) : vec4(0.0, mark, 0.0, 1.0);
    surface = vec4(normal, ray.start + hit.t);
}
