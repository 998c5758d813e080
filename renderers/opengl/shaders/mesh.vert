// Vertices of all meshes of an atlas. See project_to_atlas in atlas.py.

uniform vec2 depths;      // near, far
uniform vec2 tiles;       // columns, rows
uniform bool perspective;
in vec3 position;         // x and y in the atlas' frame, times w; -depth
in vec3 normal;
in vec3 color;
in vec2 uv;
in int item;
out vec3 fragment_normal;
out vec3 fragment_color;
out vec2 fragment_uv;
out float fragment_depth;
flat out int layer;

void main() {
    float depth = -position.z;
    fragment_normal = normal; fragment_color = color; fragment_uv = uv; fragment_depth = depth; layer = item;
    float w = perspective ? depth : 1.0;
    float z = perspective
        ? ((depths.y + depths.x) * depth - 2.0 * depths.y * depths.x) / (depths.y - depths.x)
        : (2.0 * depth - depths.x - depths.y) / (depths.y - depths.x);
    gl_Position = vec4(position.xy / tiles, z, w);
    // Clip at the borders of the tile.
    int columns = int(tiles.x);
    vec2 tile = vec2(2 * (item % columns) + 1 - columns, int(tiles.y) - 1 - 2 * (item / columns));
    vec2 offset = position.xy - tile * w;
    gl_ClipDistance[0] = w - offset.x;
    gl_ClipDistance[1] = w + offset.x;
    gl_ClipDistance[2] = w - offset.y;
    gl_ClipDistance[3] = w + offset.y;
}
