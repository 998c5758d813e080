// Unlit colour, normal and depth of meshes.

uniform sampler2DArray textures;   // one layer per item
uniform bool textured;
in vec3 fragment_normal;
in vec3 fragment_color;
in vec2 fragment_uv;
in float fragment_depth;
flat in int layer;
layout(location = 0) out vec4 image;
layout(location = 1) out vec4 surface;   // normal, depth

void main() {
    vec3 texel = textured ? texture(textures, vec3(fragment_uv, float(layer))).rgb : vec3(1.0);
    image = vec4(texel * fragment_color, 1.0);
    surface = vec4(fragment_normal, fragment_depth);
}
