"""Several shape sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from datamodules.shapes.base import Shape, ShapeSource, digest
from utils.errors import InputError

VERSION = 1


class MergedShapes(ShapeSource):
    """The shapes of several sources, one source after the other; those with one name are one shape.

    ShapeNet lists models in several categories: most of its cellphones are telephones as well, and some chairs are sofas.

    Args:
        sources: what is merged; their grids have one size.
        without: sources whose shapes are left out, by name.

    Raises:
        InputError: no sources, or sources of several sizes.
    """

    def __init__(self, sources: Sequence[ShapeSource], without: Sequence[ShapeSource] = ()) -> None:
        sizes = {source.voxel_size for source in sources}
        if len(sizes) != 1:
            raise InputError(
                f"shapes can be merged from sources of one voxel_size, got {sorted(sizes) or 'no sources'}"
            )
        (self.voxel_size,) = sizes
        self.sources, self.without = list(sources), list(without)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Shape:
        source, place = self._places[self._check_index(index)]
        return self.sources[source][place]

    def name(self, index: int) -> str:
        source, place = self._places[self._check_index(index)]
        return self.sources[source].name(place)

    def cache_key(self) -> str:
        return digest("merged", VERSION, [source.cache_key() for source in self.sources], self._places)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_places"}

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The source and the index there of every shape."""
        seen = {source.name(i) for source in self.without for i in range(len(source))}
        places = []
        for number, source in enumerate(self.sources):
            for i in range(len(source)):
                if (name := source.name(i)) not in seen:
                    seen.add(name)
                    places.append((number, i))
        if not places:
            raise InputError("of the merged shapes none is left: other classes list every one of them as well")
        return places
