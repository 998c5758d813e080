// Diffuse shading, as renderers.Lighting.shade.

uniform float ambient;
uniform int light_count;
uniform vec4 lights[8];         // unit direction in the camera frame, intensity

float shade(vec3 normal) {
    float light = ambient;
    for (int i = 0; i < light_count; i++) light += lights[i].w * max(0.0, dot(lights[i].xyz, normal));
    return min(light, 1.0);
}
