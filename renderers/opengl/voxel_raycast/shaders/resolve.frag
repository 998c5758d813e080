// Combine the four samples of each marked pixel.

uniform sampler2D samples;               // output of samples.frag
uniform float edge_step;                 // samples whose depths differ by more are of different surfaces
layout(location = 0) out vec4 image;     // shade times alpha, alpha
layout(location = 1) out vec4 surface;   // direction of the mean normal, mean depth of the nearest surface

vec4 sample_of(ivec2 at, int i) {
    return texelFetch(samples, ivec2((at.x & ~1) + (i & 1), 4 * at.y + 2 * (at.x & 1) + (i >> 1)), 0);
}

void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    vec3 normal = vec3(0.0);
    float coverage = 0.0, nearest = 1e9, depth = 0.0, count = 0.0;
    for (int i = 0; i < 4; i++) {
        vec4 one = sample_of(at, i);
        if (one.w > 0.0) { coverage += 0.25; normal += one.xyz; nearest = min(nearest, one.w); }
    }
    for (int i = 0; i < 4; i++) {
        float one = sample_of(at, i).w;
        if (one > 0.0 && one < nearest + edge_step) { depth += one; count += 1.0; }
    }
    normal = coverage > 0.0 ? normalize(normal) : vec3(0.0);
    image = vec4(shade(normal) * coverage, coverage, 0.0, 1.0);
    surface = vec4(normal, depth / max(count, 1.0));
}
