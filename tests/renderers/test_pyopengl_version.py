"""PyOpenGL 3.1.0, which pyrender pins, with Python 3.12 or newer."""

import pytest

from renderers import InputError
from renderers.opengl import pyrender_backend


@pytest.mark.parametrize(
    ("python", "version", "works"),
    [((3, 11), "3.1.0", True), ((3, 12), "3.1.10", True), ((3, 12), "3.1.0", False)],
)
def test_textures_are_refused_where_pyopengl_cannot_create_them(monkeypatch, python, version, works):
    monkeypatch.setattr(pyrender_backend.sys, "version_info", python)
    monkeypatch.setattr(pyrender_backend, "version", lambda package: version)
    if works:
        pyrender_backend._check_textures()
        return
    with pytest.raises(InputError, match=r"pip install --no-deps PyOpenGL==3\.1\.10, or use backend moderngl"):
        pyrender_backend._check_textures()
