"""Where a config is looked up, and how files compose into one.

An experiment names its parts, relative to itself; what it says beside a part's ``base`` is laid over that part::

    # chairs.yaml                          # demo.yaml
    seed_everything: 0                     base: chairs.yaml
    model: model/iggan.yaml                model:
    data: data/chairs.yaml                   init_args: {latent_size: 64}
    trainer: trainer/default.yaml          data:
                                             base: data/small.yaml     # another part, and one value of it
                                             init_args: {batch_size: 16}
                                           trainer:
                                             callbacks+: [{class_path: callbacks.ExportShapes}]

- ``base`` may stand in any mapping. It names one YAML file or a list of them, later over earlier, what stands beside it over
  all. ``model: x.yaml`` (or data, trainer) is short for ``model: {base: x.yaml}``.
- Mappings merge key by key; anything else replaces. ``name+: [...]`` appends to the list that is there.
- Another ``class_path`` starts afresh: the ``init_args`` of the class it replaces are dropped.
- Several ``--config`` files merge in their order, and options of the command line win over all files.
- ``${data.init_args.size}`` is resolved last, from the experiment's top, so it follows every override.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import configs
from utils.errors import InputError
from utils.legacy_names import update_config

PROJECT_CONFIGS = configs.FOLDER
SECTIONS = ("model", "data", "trainer")
MAX_BYTES = 2**20  # of a config
MAX_VALUES = 100_000  # in one, aliases written out


@dataclass
class Composed:
    """One experiment made of files.

    Args:
        values: What the files say, interpolations unresolved.
        origins: The file that each dotted key comes from, for messages.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)

    def origin(self, key: str) -> Path | None:
        """The file that wrote ``key``, or the nearest mapping around it."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if path := self.origins.get(".".join(parts[:length])):
                return path
        return None

    def text(self) -> str:
        """The values as YAML."""
        return yaml.dump(self.values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def names_yaml(value: object) -> bool:
    """Whether a config's value is the name of a config."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """The file that ``name`` means: beside the caller (or the folder ``beside``), then in the project's configs.

    Raises:
        InputError: There is none; near names are suggested.
    """
    name = Path(name).expanduser()
    folders = [beside or Path(), PROJECT_CONFIGS]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    known = {
        path.relative_to(folder).as_posix()
        for folder in folders
        for pattern in ("*.yaml", "model/*.yaml", "data/*.yaml", "trainer/*.yaml", "logger/*.yaml", "speed/*.yaml")
        for path in folder.glob(pattern)
    }
    raise InputError(f"there is no config {str(name)!r}{suggestion(name.as_posix(), known, 'the configs are')}")


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a sentence about a name that is not there: what may have been meant, or all there is."""
    known = sorted(known)
    by_stem = {word.rsplit("/", 1)[-1].removesuffix(".yaml"): word for word in known}
    short = name.rsplit("/", 1)[-1].removesuffix(".yaml")
    near = difflib.get_close_matches(name, known, n=2) or [
        by_stem[word] for word in difflib.get_close_matches(short, by_stem, n=2)
    ]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; {otherwise} {', '.join(known)}" if otherwise and known else ""


def compose(names: Iterable[str | Path], parts: Mapping[str, str] | None = None) -> Composed:
    """Read experiments with their parts and bases and lay the later over the earlier.

    Args:
        names: The experiments' configs.
        parts: Parts to lay over them, by section.

    Raises:
        InputError: A file is not there, is no YAML, or is built upon itself.
    """
    composed = Composed()
    for name in names:
        values = _resolve_file(find_config(name), "", composed.origins, ())
        composed.values = merge(composed.values, values)
    for section, name in (parts or {}).items():
        values = _resolve_file(find_config(name), section, composed.origins, ())
        composed.values = merge(composed.values, {section: values})
    composed.values = update_config(composed.values)
    return composed


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``under``, by the rules in the module's docstring."""
    if under.get("class_path", over.get("class_path")) != over.get("class_path", under.get("class_path")):
        return over
    merged = dict(under)
    for key, value in over.items():
        plain = key.removesuffix("+")
        if key != plain and isinstance(value, list) and isinstance(merged.get(plain), list):
            merged[plain] = merged[plain] + value
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _resolve_file(path: Path, prefix: str, origins: dict[str, Path], inside: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in inside:
        raise InputError(f"{path} is built upon itself")
    values = _load(path)
    if not prefix:
        values = {k: {"base": v} if k in SECTIONS and names_yaml(v) else v for k, v in values.items()}
    return _resolve(values, path, prefix, origins, (*inside, path.resolve()))


def _resolve(value: Any, path: Path, prefix: str, origins: dict[str, Path], inside: tuple[Path, ...]) -> Any:
    """Replace every ``base`` in a file's value by what it names."""
    if isinstance(value, list):
        return [_resolve(item, path, prefix, origins, inside) for item in value]
    if not isinstance(value, dict):
        return value
    bases = value.get("base")
    bases = bases if isinstance(bases, list) else [bases]
    if not all(map(names_yaml, bases)):  # an argument that happens to be called base
        bases = []
    merged: dict[str, Any] = {}
    for base in bases:
        found = find_config(base, path.parent)
        merged = merge(merged, _resolve_file(found, prefix, origins, inside))
    own = {}
    for key, item in value.items():
        if key == "base" and bases:
            continue
        dotted = f"{prefix}.{key}" if prefix else key
        origins[dotted.removesuffix("+")] = path
        own[key] = _resolve(item, path, dotted, origins, inside)
    return merge(merged, own)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: ``2e-4`` is a number, and a key that stands twice is a mistake."""


_FLOAT = r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in ("float", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT, re.VERBOSE), list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no word", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _expanded(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many values a node has, each alias counted anew: nine lines of aliases can make a billion."""
    size = sizes.get(id(node), 0)
    if size is None:
        raise yaml.constructor.ConstructorError(None, None, "an alias stands within itself", node.start_mark)
    if not size:
        sizes[id(node)] = None
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = parts if isinstance(node, yaml.CollectionNode) else []
        size = sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in parts)
    return size


def _parse(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES:,} bytes, too much for a config")
    loader = _Loader(path.read_text(encoding="utf-8"))
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _expanded(node, {})) > MAX_VALUES:
            raise InputError(f"{path} holds {size:,} values with its aliases written out, more than {MAX_VALUES:,}")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _load(path: Path) -> dict[str, Any]:
    try:
        values = _parse(path)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a tag such as !!int on what is no number, and numbers too long for Python
        raise InputError(f"{path} holds a value that is not what its tag says: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, not {type(values).__name__}")
    return values
