"""OpenGL: the renderer, its two backends (pyrender, moderngl), and the EGL context they draw in."""

from renderers.opengl.renderer import NO_OPENGL, OpenGLRenderer

__all__ = ["NO_OPENGL", "OpenGLRenderer"]
