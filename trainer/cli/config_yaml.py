"""Read and write the YAML of config files, with a line number for each error and limits against malicious files."""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from utils.errors import InputError, system_reason

MAX_BYTES = 2**20  # of a config file
MAX_VALUES = 100_000  # of a config file, with aliases expanded


def load_yaml(path: Path, loader_class: type[yaml.SafeLoader] | None = None) -> dict[str, Any]:
    """Read a config file.

    Args:
        path: The file.
        loader_class: Default: one that reads numbers as the command line does and rejects duplicate keys.

    Raises:
        InputError: The file cannot be read, is not valid YAML, is not a mapping, or is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES:,} bytes, the limit for a config")
        return parse_yaml(path.read_text(encoding="utf-8"), path, loader_class)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({system_reason(error)}); check the path and its permissions"
        ) from error


def parse_yaml(text: str, path: Path, loader_class: type[yaml.SafeLoader] | None = None) -> dict[str, Any]:
    """Parse the text of a config.

    Args:
        text: YAML.
        path: The file that it is from, for messages.
        loader_class: See :func:`load_yaml`.

    Raises:
        InputError: The text is not valid YAML, is not a mapping, or is too large.
    """
    try:
        if len(text) > MAX_BYTES:
            raise InputError(f"{path} has a config of more than {MAX_BYTES:,} characters, the limit")
        loader = (loader_class or _Loader)(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if (size := _expanded_size(node, {})) > MAX_VALUES:
            raise InputError(f"{path} has {size:,} values with its aliases expanded; the limit is {MAX_VALUES:,}")
        values = loader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or error.context
        if isinstance(error, ComposerError) and error.context:  # its problem alone is half a sentence
            problem = f"{error.context}, {error.problem}"
        raise InputError(f"{path}{line}: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    except Exception as error:  # a tag such as !!int on other text, and numbers too long for Python
        raise InputError(f"{path} has a value that does not fit its tag: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must contain a mapping, not {type(values).__name__}")
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """Write values as YAML that :func:`load_yaml` and jsonargparse read as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 does, dates as text, and rejects duplicate keys.

    YAML 1.1 needs ``2.0e-4`` for ``2e-4``, and reads ``03001627``, a category of ShapeNet, in octal and ``1:30`` as 90.
    """


_FLOAT = r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in ("float", "int", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(_INT), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT, re.VERBOSE), list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader, or another one of YAML 1.1, would read as a number."""


_Dumper.yaml_implicit_resolvers = {
    first: resolvers + yaml.SafeLoader.yaml_implicit_resolvers.get(first, [])
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    own: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise ConstructorError(None, None, f"the key {key!r} is not a string", key_node.start_mark)
        if key in own:
            raise ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        own.add(key)
    loader.flatten_mapping(node)  # puts merged keys first, so that the mapping's own win
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Number of values in a node with its aliases expanded: nine lines of aliases can expand to a billion."""
    size = sizes.get(id(node), 0)
    if size is None:
        raise ConstructorError(None, None, "an alias contains itself", node.start_mark)
    if not size:
        sizes[id(node)] = None
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = parts if isinstance(node, yaml.CollectionNode) else []
        size = sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in parts)
    return size
