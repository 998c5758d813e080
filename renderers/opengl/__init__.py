"""The OpenGL renderer, its two backends (pyrender and moderngl), and their EGL setup."""

from renderers.opengl.renderer import OpenGLRenderer

__all__ = ["OpenGLRenderer"]
