"""Materials of OBJ files: plain colours and colour textures of MTL files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from renderers.mesh_files.images import EMISSION, OPAQUE, decode_texture, find_file, read_file
from renderers.mesh_files.parts import Notes, Texture, join_lines

_ARGUMENTS = {  # of the options of map_Kd; those that are listed with None take up to three numbers
    "-blendu": 1, "-blendv": 1, "-cc": 1, "-clamp": 1, "-texres": 1, "-bm": 1, "-boost": 1, "-imfchan": 1, "-type": 1,
    "-colorspace": 1, "-mm": 2, "-o": None, "-s": None, "-t": None,
}  # fmt: skip


@dataclass
class Material:
    """A material: sRGB colour, or a texture in its place, with scale and offset of coordinates whose v points up."""

    color: np.ndarray
    texture: Texture | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


class MaterialLibrary:
    """The materials of an OBJ file's MTL files.

    Args:
        folder: folder of the OBJ file.
        notes: receives what is missing.
    """

    def __init__(self, folder: Path, notes: Notes) -> None:
        self.folder, self.notes = folder, notes
        self._materials: dict[str, Material] = {}
        self._textures: dict[tuple[Path, bool], Texture | None] = {}

    def load(self, names: str) -> None:
        """Read the files of a ``mtllib`` line: one name, which may contain spaces, or several."""
        found = find_file(self.folder, names)
        for name in [names] if found else names.split():
            path = find_file(self.folder, name)
            if path is None:
                self.notes.add(f"the material file {name} was not found, so its colours and textures are missing")
            else:
                self._read(path)

    def get(self, name: str) -> Material | None:
        material = self._materials.get(name)
        if material is None:
            self.notes.add(f"the material {name} is not defined, so its surfaces are white")
        return material

    def _read(self, path: Path) -> None:
        material = None
        for line in join_lines(read_file(path).decode("utf-8-sig", errors="replace")).splitlines():
            keyword, rest = [*line.strip().split(None, 1), "", ""][:2]
            keyword = keyword.lower()
            if keyword == "newmtl":
                material = self._materials[rest] = Material(np.ones(3))
            elif material is None or not rest:
                continue
            elif keyword == "kd":
                self._color(material, rest)
            elif keyword == "map_kd":
                self._texture(material, rest, path.parent)
            elif keyword in ("map_d", "map_tr") or _is_transparent(keyword, rest):
                self.notes.add(OPAQUE)
            elif keyword == "map_ke" or (keyword == "ke" and _is_nonzero(rest)):
                self.notes.add(EMISSION)

    def _color(self, material: Material, rest: str) -> None:
        words = rest.split()
        values = [_number(word) for word in words[:3]]
        if words[0].lower() in ("spectral", "xyz") or not np.isfinite(values).all():
            self.notes.add("a colour that is not given in RGB is not supported, so its surfaces are white")
            return
        material.color = np.array(values * 3 if len(values) == 1 else [*values, 0.0][:3]).clip(0, 1)

    def _texture(self, material: Material, rest: str, folder: Path) -> None:
        words, clamp = rest.split(), False
        while words and words[0].lower() in _ARGUMENTS:
            option, count = words[0].lower(), _ARGUMENTS[words[0].lower()]
            if count is None:
                count = next((i for i, word in enumerate(words[1:4]) if not np.isfinite(_number(word))), 3)
            values, words = words[1 : 1 + count], words[1 + count :]
            if option == "-clamp":
                clamp = values[:1] == ["on"]
            elif option in ("-s", "-o") and values:
                pair = (_number(values[0]), _number(values[1]) if len(values) > 1 else float(option == "-s"))
                if option == "-s":
                    material.scale = pair
                else:
                    material.offset = pair
        # The name may contain several spaces in a row.
        name = rest[rest.index(words[0]) :] if words and rest.count(words[0]) == 1 else " ".join(words)
        path = find_file(folder, name) or find_file(self.folder, name)
        if path is None:
            self.notes.add(f"the texture {name} was not found, so its surfaces have no texture")
            return
        if (path, clamp) not in self._textures:
            pixels = decode_texture(path.name, read_file(path), self.notes)
            mode = "clamp" if clamp else "repeat"
            self._textures[path, clamp] = None if pixels is None else Texture(pixels, (mode, mode))
        material.texture = self._textures[path, clamp]


def _is_transparent(keyword: str, rest: str) -> bool:
    value = _number(rest.split()[-1])
    return (keyword == "d" and value < 1) or (keyword == "tr" and value > 0)


def _is_nonzero(color: str) -> bool:
    return any(_number(word) > 0 for word in color.split())


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return np.nan
