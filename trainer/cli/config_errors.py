"""One-sentence messages for invalid configs and options, from errors of jsonargparse, omegaconf, Lightning and torch."""

import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
from jsonargparse._util import import_object
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from trainer.cli.config_composition import Composed, suggestion
from trainer.cli.trust import CLASS_PATH, REASON
from utils.errors import InputError

# jsonargparse has typed errors, but reports the tried members of a union only in its message. The message is a tree in
# the order of nesting: keys and classes that lead to the error, then what is wrong.
MESSAGE_PARTS = re.compile(
    r"""
      Parser\ key\ "(?P<key>[^"]+)"
    | Problem\ with\ given\ class_path\ '(?P<class_path>[^']+)'
    | expects\ a\ function\ or\ a\ callable\ class(?:(?=.*?Got\ value:\ Namespace\(.*?class_path='(?P<callable>[^']+)')|)
    | argument\ (?P<without_value>--\S+):\ expected\ one\ argument
    | unrecognized\ arguments:\ (?P<unrecognized>\S+)
    | Subcommand\ '\w+'\ does\ not\ accept\ option\ '(?P<unknown_key>[^']+)'
    | arguments\ are\ required:\ (?P<required>[^\n]+)
    | Unable\ to\ load\ config\ '(?P<not_a_config>[^']+)'
    | Key\ "(?P<required_key>[^"]+)"\ is\ required
    | Option\ '(?P<unknown_argument>[^']+)'\ is\ not\ accepted
    | No\ module\ named\ '(?P<module>[^']+)'
    | module\ '(?P<parent>[^']+)'\ has\ no\ attribute\ '(?P<attribute>[^']+)'
    | Expected\ an\ instantiatable\ class,\ but\ (?P<abstract>\S+)\ is\ abstract
    | Import\ path\ (?P<wrong_class>\S+)\ does\ not\ correspond\ to\ a\ subclass\ of\ (?P<base>\w+)
    """,
    re.VERBOSE | re.DOTALL,
)
SECTION_FILES = {"model": "model/iggan.yaml", "data": "data/ffhq.yaml", "trainer": "trainer/default.yaml"}
JSONARGPARSE = Path(jsonargparse.__file__).parent
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class ParseError(Exception):
    """jsonargparse's message about invalid options."""


class _Part(NamedTuple):
    """Something wrong in jsonargparse's message, and where.

    Args:
        match: The text.
        key: Full key of the innermost value around it.
        class_path: The class whose arguments are being parsed.
    """

    match: re.Match
    key: str
    class_path: str


def config_error(
    error: Exception, composed: Composed, given: Iterable[str], options: Iterable[str]
) -> InputError | None:
    """The one-sentence error for an invalid config or option; None for any other error.

    Args:
        error: An error of parsing, or of building what was parsed.
        composed: The files' values and their origins.
        given: The keys given as options.
        options: All keys of the command.
    """
    root: BaseException = error
    cause: BaseException | None = error
    while cause is not None:  # jsonargparse wraps errors that constructors raise
        if isinstance(cause, InputError):
            return cause
        root, cause = cause, cause.__cause__
    if root is not error and (refusal := _library_refusal(root)):
        return refusal
    if denied := re.search(r"Importing '([^']+)' is not allowed", str(error)):
        return InputError(f"the config of the run uses {denied[1]}; {REASON}")
    if isinstance(error, ParseError | jsonargparse.ArgumentError):
        return _parse_error(str(error), composed, given, list(options))
    if isinstance(error, OmegaConfBaseException):
        return _interpolation_error(error, composed, list(options))
    return None


def _library_refusal(error: BaseException) -> InputError | None:
    """The message of a constructor of Lightning or torch that refuses its arguments, or whose package is not installed."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    library = frame.f_globals.get("__name__", "").partition(".")[0]
    refusals = ValueError | TypeError | ImportError | MisconfigurationException
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return InputError("the networks of this config do not fit into memory; make them smaller")
    if not isinstance(error, refusals) or library not in ("pytorch_lightning", "lightning_fabric", "torch"):
        return None
    part = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else library
    return InputError(f"{part}: {' '.join(str(error).split())[:300]}")


def _parse_error(message: str, composed: Composed, given: Iterable[str], options: list[str]) -> InputError:
    """Summarize jsonargparse's message in one sentence."""
    given = {_without_init_args(key) for key in given}

    def prefix(key: str, argument: str = "") -> str:
        """``--`` if the key, or an argument of it, is given as an option; else the file that sets it."""
        if given & {_without_init_args(key), _without_init_args(key + argument)}:
            return "--"
        return _origin(composed, key + argument)

    if failure := _import_failure(message):
        return failure
    parts, last = _message_parts(message)
    if wrong := next(_keys_beside_class_path(composed.values), None):  # jsonargparse does not name the key
        return _key_beside_class_path(*wrong, composed)
    if part := parts.get("without_value"):
        option = part.match["without_value"]  # the section of an option such as --data.batch_size
        full = [f"--{key}" for key in given if f"--{key}".startswith(f"{option}.")]
        return InputError(f"{full[0] if len(full) == 1 else option} needs a value")
    if part := parts.get("unrecognized"):
        word = part.match["unrecognized"].partition("=")[0]
        hint = suggestion(word.lstrip("-"), options) if word.startswith("-") else "; options begin with --"
        return InputError(f"no such option {word}{hint}")
    if part := parts.get("unknown_key"):
        return _unknown_key(part.match["unknown_key"], prefix, options)
    if (part := parts.get("not_a_config")) and part.key in SECTION_FILES:
        return _not_a_file(part.key, part.match["not_a_config"], prefix(part.key))
    if part := parts.get("required") or parts.get("required_key"):
        missing = _without_command(part.match[part.match.lastgroup or 0])
        key = f"{part.key}.{missing}" if part.key else missing
        return InputError(f"{key} must be given, by --config or as an option")
    if part := parts.get("unknown_argument"):
        argument = part.match["unknown_argument"].removeprefix("init_args.").split(".")[0]
        hint = suggestion(argument, _arguments(part.class_path), "it has")
        location = f"{prefix(part.key, f'.{argument}')}{part.key}.{argument}"
        return InputError(f"{location}: {part.class_path} has no argument {argument!r}{hint}")
    if part := parts.get("module") or parts.get("attribute"):
        key = part.key.removesuffix(".init_args")
        module, parent, attribute = part.match.group("module", "parent", "attribute")
        class_path = part.class_path or module or f"{parent}.{attribute}"
        hint = suggestion(class_path, _sibling_classes(class_path))
        return InputError(f"{prefix(key, '.class_path')}{key}: no such class {class_path}{hint}")
    if part := parts.get("abstract"):
        missing = ", ".join(sorted(import_object(part.match["abstract"]).__abstractmethods__))
        return InputError(f"{prefix(part.key)}{part.key}: {part.match['abstract']} does not implement {missing}")
    if part := parts.get("base"):
        return InputError(f"{prefix(part.key)}{part.key}: {part.match['wrong_class']} is not a {part.match['base']}")
    if last:
        detail = message[last.match.end() :]
        value = _given_value(detail)
        if last.key in SECTION_FILES and last.key in given and (Path(value).exists() or "." not in value):
            return _not_a_file(last.key, value, "--")
        if expected := _expected_type(detail):
            return InputError(f"{prefix(last.key)}{last.key} must be {expected}, not {value}")
    return InputError(" ".join(message.split()))


def _import_failure(message: str) -> InputError | None:
    """The error of a module that jsonargparse's message names and that exists, but cannot be imported; None if all can.

    jsonargparse reports such a module like one that does not exist, or not at all. Only names of classes are imported:
    ``own.yaml`` in a message is a file, and a script ``own.py`` beside it must not be executed.
    """
    for name in dict.fromkeys(CLASS_PATH.findall(message)):
        module, _, class_name = name.rpartition(".")
        if not class_name[0].isupper() or module in sys.modules or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        try:
            import_object(name)
        except Exception as error:  # whatever the module raises
            frames = traceback.extract_tb(error.__traceback__)
            *_, frame = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
            path, line = frame.filename, frame.lineno
            if isinstance(error, SyntaxError):
                path, line = error.filename or path, error.lineno
            elif Path(path).is_relative_to(JSONARGPARSE):  # no such module or class, or it must not be imported
                continue
            reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
            return InputError(f"{module} cannot be imported: {path}, line {line}: {type(error).__name__}: {reason}")
    return None


def raised_by_part(error: BaseException) -> BaseException:
    """The error of a constructor that jsonargparse replaced by its own; any other error as it is."""
    while error.__cause__ is not None and _raised_in(error).startswith("jsonargparse"):
        error = error.__cause__
    return error


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", ""))


def _key_beside_class_path(key: str, unknown: str, class_path: str, composed: Composed) -> InputError:
    """The message for ``latent_size`` beside ``class_path`` instead of under ``init_args``, or another unknown key."""
    hint = suggestion(unknown, CLASS_KEYS) or f"; arguments of {class_path} belong under init_args"
    return InputError(f"{_origin(composed, f'{key}.{unknown}')}{key} has no key {unknown!r}{hint}")


def _keys_beside_class_path(values: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the key of each mapping that names a class and has a key that no class has, that key, and the class."""
    if isinstance(values, list):
        for value in values:
            yield from _keys_beside_class_path(value, key)
    elif isinstance(values, dict):
        for name, value in values.items():
            if "class_path" in values and name not in CLASS_KEYS:
                yield key, str(name), str(values["class_path"])
            yield from _keys_beside_class_path(value, f"{key}.{name}" if key else str(name))


def _message_parts(message: str) -> tuple[dict[str, _Part], _Part | None]:
    """The first part of each kind in jsonargparse's message, and its last key."""
    parts: dict[str, _Part] = {}
    last: _Part | None = None
    key, class_path = "", ""
    for match in MESSAGE_PARTS.finditer(message):
        kind = match.lastgroup
        if kind == "key":
            key = f"{key}.{match['key']}" if key else match["key"]
            last = _Part(match, key, class_path)
        elif kind in ("class_path", "callable", None):
            class_path = match["class_path"] or match["callable"] or class_path
            key = key if not key or key.endswith(".init_args") else f"{key}.init_args"
            last = last and last._replace(key=key)
        else:
            parts.setdefault(kind, _Part(match, key, class_path))
    return parts, last


def check_keys(composed: Composed, known: Iterable[str]) -> None:
    """Check the keys at the top of a config.

    Raises:
        InputError: A key that is not known.
    """
    if unknown := set(composed.values).difference(known):
        raise _unknown_key(min(unknown), lambda key: _origin(composed, key), list(known))


def _unknown_key(key: str, prefix: Callable[[str], str], options: list[str]) -> InputError:
    section, _, rest = key.partition(".")
    sections = {option.partition(".")[0] for option in options}
    if section not in sections:
        return InputError(f"{prefix(key)}no such key {section!r}{suggestion(section, sections, 'the keys are')}")
    known = {option.partition(".")[2] for option in options if option.startswith(f"{section}.")}
    return InputError(f"{prefix(key)}{section} has no key {rest!r}{suggestion(rest, known)}")


def _origin(composed: Composed, key: str) -> str:
    path = composed.origin(key)
    return f"{path}: " if path else ""


def _without_command(key: str) -> str:
    return re.sub(r"(^|[ ,])(fit|validate|test|predict)\.", r"\1", key)


def _without_init_args(key: str) -> str:
    return key.replace(".init_args.", ".")


def _arguments(class_path: str) -> set[str]:
    """Names of a class's constructor arguments, those of its bases included."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return set()
    names: set[str] = set()
    for base in inspect.getmro(cls) if isinstance(cls, type) else ():
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values() if "__init__" in vars(base) else ()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - {"self", "params"}


def _sibling_classes(class_path: str) -> set[str]:
    """The classes in the module that ``class_path`` names."""
    module = class_path.rpartition(".")[0]
    try:
        members = inspect.getmembers(importlib.import_module(module), inspect.isclass)
    except (ImportError, ValueError):
        return set()
    return {f"{module}.{name}" for name, _ in members}


def _expected_type(detail: str) -> str:
    """The type that jsonargparse expected, such as ``list[float] or null``."""
    match = re.search(r"Subtypes: \[(.*)\]", detail) or re.search(r"Expected an? (.+?)(?:\. Got value|\n|$)", detail)
    if match is None:
        return ""
    expected = re.sub(r"<class '([^']+)'>", r"\1", match[1]).replace("NoneType", "null")
    expected = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", expected)  # without modules
    if literal := re.fullmatch(r"Literal\[(.*)\]", expected):
        return f"one of {literal[1]}"
    expected = re.sub(r"Literal\[(.*?)\]", r"\1", expected)
    return re.sub(r", (?=[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*$)", " or ", expected)  # commas outside of brackets


def _not_a_file(section: str, value: str, prefix: str) -> InputError:
    """The message for a value like ``--data photos``, which is neither a config nor a class."""
    fix = (
        f"; pass the folder by --data.root={value}" if section == "data" and Path(value).exists() else f", not {value}"
    )
    return InputError(f"{prefix}{section} names a YAML file, such as {SECTION_FILES[section]}{fix}")


def _given_value(detail: str) -> str:
    match = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|\n|$)", detail)
    value = match[1] if match else "the given value"
    nested = re.fullmatch(r"NestedArg\(key=.*, val='?(.*?)'?\)", value)
    value = (nested[1] if nested else value) or "an empty value"
    return value if len(value) <= 60 else value[:57] + "..."


def _interpolation_error(error: OmegaConfBaseException, composed: Composed, options: list[str]) -> InputError:
    """The message for a ``${...}`` that cannot be resolved.

    Raises:
        InputError: A key at the top of the config that is not known, which may be the cause.
    """
    check_keys(composed, {option.partition(".")[0] for option in options})
    if (match := re.search(r"Interpolation key '(\.*)([^']*)' not found", str(error))) and error.full_key:
        key = _without_command(error.full_key)
        parents = key.split(".")[: -len(match[1])] if match[1] else []  # of a relative reference
        reference = ".".join([*parents, match[2]])
        fix = _unset_argument(reference, key, composed)
        if not fix and (similar := difflib.get_close_matches(reference, _all_keys(composed.values) - {key}, n=1)):
            fix = f"; did you mean {similar[0]}?"
        return InputError(f"{_origin(composed, key)}{key} refers to ${{{reference}}}, which is not in the config{fix}")
    if match := re.search(r"trying to access ([\w.]+): node `([\w.]+)`", str(error)):
        reference, parent = match.groups()
        referring = f"{_without_command(error.full_key)} refers" if error.full_key else "the config refers"
        where = f"{_origin(composed, parent)}{parent}"
        return InputError(f"{where} has no keys, but {referring} to ${{{reference}}}; remove {parent} or the reference")
    return InputError(f"an interpolation cannot be resolved: {str(error).splitlines()[0]}")


def _unset_argument(reference: str, key: str, composed: Composed) -> str:
    """The end of a message about a missing ``${data.init_args.renderer}``; empty if the name may be misspelled."""
    section, _, argument = reference.partition(".init_args.")
    argument = argument.partition(".")[0]
    part = composed.values.get(section)
    class_path = str(part.get("class_path", "")) if isinstance(part, dict) else ""
    arguments = _arguments(class_path)
    if not arguments or difflib.get_close_matches(argument, arguments, n=1):
        return ""
    renders = section == "data" and argument in ("renderer", "views", "shapes")
    cure = ""
    if renders and class_path.startswith("datamodules."):
        cure = ": this method needs data that render shapes, such as those of demo.yaml"
    elif renders:
        cure = f": give it one, or set {key}"
    return f"; {class_path.rpartition('.')[2]} has no {argument}{cure}"


def _all_keys(values: Any, prefix: str = "") -> set[str]:
    """All keys of nested mappings, dotted."""
    if not isinstance(values, dict):
        return set()
    keys = {f"{prefix}{key}": value for key, value in values.items()}
    return set(keys).union(*(_all_keys(value, f"{key}.") for key, value in keys.items()))
