// One triangle that covers the frame. With two, blocks of pixels on their common edge would be shaded twice.

void main() {
    gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}
