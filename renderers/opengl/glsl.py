"""Loading of GLSL shaders from files."""

from importlib import resources


def load_shader(package: str, *names: str) -> str:
    """Concatenate files in the folder ``shaders`` of a package into one shader of GLSL 3.30."""
    folder = resources.files(package) / "shaders"
    return "\n".join(["#version 330", *((folder / name).read_text("utf-8") for name in names)])
