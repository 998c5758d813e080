// Second pass: one fragment per sample of a marked pixel. The four samples of a pixel are a 2x2 square of fragments, so
// that they run in the same group of lanes.

out vec4 surface;   // normal, depth; depth 0 on the background

// The positions of 4x multisampling.
const vec2 OFFSETS[4] = vec2[](vec2(0.375, 0.875), vec2(0.875, 0.625), vec2(0.125, 0.375), vec2(0.625, 0.125));

void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    ivec4 listed = texelFetch(rays, ivec2((at.x & ~1) + ((at.y >> 1) & 1), at.y >> 2), 0);
    Ray ray = ray_at(listed, OFFSETS[(at.x & 1) + 2 * (at.y & 1)]);
    Hit hit = trace(ray, listed, NEVER);
    bool visible = hit.t < NEVER;
    surface = visible ? vec4(normal_at(ray, hit.t, listed.y * depth_of_grid), ray.start + hit.t) : vec4(0.0);
}
