"""From the libraries' walls of text to one sentence: the key, where it stands, what it should be."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable

from trainer.cli.config_composition import Composed, suggestion
from utils.errors import InputError

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_CALLED = re.compile(
    r"expects a function or a callable class.*?Got value: Namespace\(.*?class_path='([^']+)'", re.DOTALL
)
_INTO_CLASS = re.compile(r"Problem with given class_path|expects a function or a callable class")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_NO_MODULE = re.compile(r"No module named '([^']+)'|module '([^']+)' has no attribute '([^']+)'")
_NO_SUBCLASS = re.compile(r"Import path (\S+) does not correspond to a subclass of (\w+)")
_NO_OPTION = re.compile(r"Subcommand '\w+' does not accept option '([^']+)'")
_NO_VALUE = re.compile(r"argument (--\S+): expected one argument")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
_REQUIRED = re.compile(r"arguments are required: (.*)|Key \"([^\"]+)\" is required")
_INTERPOLATION = re.compile(r"Interpolation key '\.*([^']*)' not found.*?full_key: (?:\w+\.)?(\S+)", re.DOTALL)
_MEMBER = re.compile(r"<class '([^']+)'>")


class ParseError(Exception):
    """jsonargparse's words about options that do not fit."""


def find_input_error(error: BaseException) -> InputError | None:
    """The sentence that a constructor raised, which jsonargparse wraps in errors of its own; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return cause
        cause = cause.__cause__
    return None


def parse_error(message: str, composed: Composed, given: Iterable[str], options: Iterable[str]) -> InputError:
    """The one sentence that a parser's message comes down to.

    Args:
        message: What jsonargparse says.
        composed: The files' values and where each comes from.
        given: The keys given as options of the command line.
        options: All keys that the command has.
    """
    given = {_short(key) for key in given}

    def place(key: str, inner: str = "") -> str:
        """What stands before the key: the file that wrote it (or what is inside), or the dashes of an option."""
        if _short(key) in given or _short(key + inner) in given:
            return "--"
        origin = composed.origin(key + inner)
        return f"{origin}: " if origin else ""

    if match := _NO_VALUE.search(message):
        return InputError(f"{match[1]} needs a value")
    if match := _UNRECOGNIZED.search(message):
        word = match[1].split()[0]
        key = word.partition("=")[0].lstrip("-")
        cure = suggestion(key, options) if word.startswith("-") else "; options begin with --"
        return InputError(f"there is no option {word.partition('=')[0]}{cure}")
    if match := _NO_OPTION.search(message):
        return _unknown_key(match[1], place, options)
    keys = list(_KEY.finditer(message))
    if match := _REQUIRED.search(message):
        missing = re.sub(r"\b(fit|validate|test|predict)\.", "", match[1] or match[2]).split("\n")[0]
        around = _dotted(keys, message, match.start())
        key = f"{around}.{missing}" if around else missing
        return InputError(f"{key} must be given, by --config or as an option")
    if match := _UNKNOWN.search(message):
        key = _dotted(keys, message, match.start())
        class_path = _last_class(message, match.start())
        known = _arguments(class_path)
        inner = match[1].removeprefix("init_args.").split(".")[0]
        cure = suggestion(inner, known, "it has")
        return InputError(f"{place(key, f'.{inner}')}{key}.{inner}: {class_path} has no argument {inner!r}{cure}")
    if match := _NO_MODULE.search(message):
        key = _dotted(keys, message, match.start()).removesuffix(".init_args")
        class_path = _last_class(message, match.start()) or match[1] or f"{match[2]}.{match[3]}"
        cure = suggestion(class_path, _classes(class_path))
        return InputError(f"{place(key, '.class_path')}{key}: there is no class {class_path}{cure}")
    if match := _NO_SUBCLASS.search(message):
        key = _dotted(keys, message, match.start())
        return InputError(f"{place(key)}{key}: {match[1]} is no {match[2]}")
    if keys:
        key = _dotted(keys, message, len(message))
        detail = message[keys[-1].end() :]
        if expected := _expected(detail):
            return InputError(f"{place(key)}{key} must be {expected}, not {_value(detail)}")
    return InputError(" ".join(message.split()))


def interpolation_error(message: str, composed: Composed) -> InputError:
    """The sentence about a ``${...}`` that cannot be resolved."""
    if match := _INTERPOLATION.search(message):
        origin = composed.origin(match[2])
        where = f"{origin}: " if origin else ""
        return InputError(f"{where}{match[2]} refers to ${{{match[1]}}}, which is not in the config")
    return InputError(f"an interpolation cannot be resolved: {message.splitlines()[0]}")


def checkpoint_error(message: str, checkpoint: str) -> InputError:
    """The sentence about weights that do not fit, by the first thing that does not."""
    first = "its weights have other names or shapes"
    if match := re.search(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)", message):
        first = f"{match[1]} is {match[2]} there and {match[3]} here"
    elif match := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', message):
        first = f"{match[2]} is {'not there' if match[1] == 'Missing' else 'not here'}"
    return InputError(f"{checkpoint} was trained with another configuration: {first}")


def _unknown_key(key: str, place: Callable[..., str], options: Iterable[str]) -> InputError:
    options = list(options)
    head, _, tail = key.partition(".")
    sections = {option.partition(".")[0] for option in options}
    if head not in sections:
        return InputError(f"{place(key)}there is no key {head!r}{suggestion(head, sections, 'the keys are')}")
    known = {option.partition(".")[2] for option in options if option.startswith(f"{head}.")}
    return InputError(f"{place(key)}{head} has no key {tail!r}{suggestion(tail, known)}")


def _dotted(keys: list[re.Match], message: str, end: int) -> str:
    """The full key of the innermost value: jsonargparse prints it in steps, one a class."""
    keys = [key for key in keys if key.start() < end]
    dotted = ""
    for key, following in zip(keys, [*keys, None][1:], strict=True):
        dotted = f"{dotted}.{key[1]}" if dotted else key[1]
        until = following.start() if following else end
        if _INTO_CLASS.search(message, key.end(), until):
            dotted += ".init_args"
    return dotted


def _short(key: str) -> str:
    return key.replace(".init_args.", ".")


def _last_class(message: str, end: int) -> str:
    """The class whose arguments are being spoken of at ``end``."""
    opened = list(_INTO_CLASS.finditer(message, 0, end))
    if opened and (called := _CALLED.match(message, opened[-1].start())):
        return called[1]
    named = list(_CLASS.finditer(message, 0, end))
    return named[-1][1] if named else ""


def _class(class_path: str) -> type | None:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _arguments(class_path: str) -> set[str]:
    found = _class(class_path)
    if found is None:
        return set()
    names: set[str] = set()
    for base in inspect.getmro(found):
        parameters = inspect.signature(base.__init__).parameters.values() if "__init__" in vars(base) else ()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - {"self", "params"}


def _classes(class_path: str) -> set[str]:
    """The classes beside one that is not there."""
    module = class_path.rpartition(".")[0]
    try:
        members = inspect.getmembers(importlib.import_module(module), inspect.isclass)
    except (ImportError, ValueError):
        return set()
    return {f"{module}.{name}" for name, _ in members}


def _expected(detail: str) -> str:
    """The innermost type that was asked for, as a person would write it."""
    if match := re.search(r"Subtypes: \[(.*)\]", detail):
        inner = match[1]
    elif match := re.search(r"Expected an? (?:<class '([^']+)'>|(.+?))(?:\. Got value|\n|$)", detail):
        inner = match[1] or match[2]
    else:
        return ""
    inner = _MEMBER.sub(r"\1", inner).replace("NoneType", "null").replace("typing.", "")
    inner = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", inner)
    if match := re.fullmatch(r"Literal\[(.*)\]", inner):
        return f"one of {match[1]}"
    inner = re.sub(r"Literal\[(.*?)\]", r"\1", inner)
    return re.sub(r", (?=[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*$)", " or ", inner)


def _value(detail: str) -> str:
    match = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|\n|$)", detail)
    value = match[1] if match else "what is given"
    nested = re.fullmatch(r"NestedArg\(key=.*, val='?(.*?)'?\)", value)
    value = nested[1] if nested else value
    return value if len(value) <= 60 else value[:57] + "..."
