"""Several shape sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from datamodules.shapes.base import Shape, ShapeSource, digest
from utils.errors import InputError

VERSION = 1


class MergedShapes(ShapeSource):
    """The concatenated shapes of several sources, without duplicate names.

    ShapeNet lists some models in several categories: most of its cellphones are also telephones, and some chairs are sofas.

    Args:
        sources: the sources to merge, with grids of one size.
        without: sources whose shapes are excluded, by name.

    Raises:
        InputError: there are no sources, their grids differ in size, or only some of them have colours.
    """

    def __init__(self, sources: Sequence[ShapeSource], without: Sequence[ShapeSource] = ()) -> None:
        sizes = {source.voxel_size for source in sources}
        if len(sizes) != 1:
            raise InputError(f"merged sources must have one voxel_size, got {sorted(sizes) or 'no sources'}")
        (self.voxel_size,) = sizes
        self.colored = any(source.colored for source in sources)
        if not all(source.colored == self.colored for source in sources):
            raise InputError("merged sources must all have colours, or none; set colored to the same value in each")
        self.sources, self.without = list(sources), list(without)

    def __len__(self) -> int:
        return len(self._locations)

    def __getitem__(self, index: int) -> Shape:
        source, position = self._locations[self._check_index(index)]
        return self.sources[source][position]

    def name(self, index: int) -> str:
        source, position = self._locations[self._check_index(index)]
        return self.sources[source].name(position)

    def cache_key(self) -> str:
        return digest("merged", VERSION, [source.cache_key() for source in self.sources], self._locations)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_locations"}

    @cached_property
    def _locations(self) -> list[tuple[int, int]]:
        """Source number and index within that source, for each shape."""
        seen = {source.name(i) for source in self.without for i in range(len(source))}
        locations = []
        for number, source in enumerate(self.sources):
            for i in range(len(source)):
                if (name := source.name(i)) not in seen:
                    seen.add(name)
                    locations.append((number, i))
        if not locations:
            raise InputError("the merged sources have no shapes that are not excluded; other classes list all of them")
        return locations
