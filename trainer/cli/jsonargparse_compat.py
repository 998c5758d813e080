"""Settings and workarounds for jsonargparse, shared by all parsers of configs."""

import ast
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonargparse
from jsonargparse import _typehints
from jsonargparse._common import default_import_path_denylist, parsing_settings
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

# Both let ${...} follow overrides; the second also for whole dataclasses, as in views: ${data.init_args.views}.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=["is_pure_dataclass"])

PARSER_MODE = "omegaconf+"
DENIED_BY_DEFAULT = frozenset(entry.partition(".")[0] for entry in default_import_path_denylist)


_discard = _typehints.discard_init_args_on_class_path_change


def _discard_but_references(parser_or_action: Any, previous: Any, value: Any) -> None:
    """Keep ``${...}`` when an option names another class, as in ``--model=my.Module``, if that class has the argument.

    jsonargparse keeps the arguments that suit the other class, but takes a reference for a value of the wrong type.
    """
    arguments = (previous or {}).get("init_args") or {}
    references = {name: argument for name, argument in arguments.items() if "${" in str(argument)}
    _discard(parser_or_action, previous, value)
    lost = {name: argument for name, argument in references.items() if name not in arguments}
    if lost:
        options = getattr(parser_or_action, "sub_add_kwargs", {})
        accepted = _typehints.ActionTypeHint.get_class_parser(value["class_path"], options)
        for name, argument in lost.items():
            if _typehints.find_action(accepted, name):
                arguments[name] = argument


_typehints.discard_init_args_on_class_path_change = _discard_but_references


@contextmanager
def import_policy(allowed: list[str], denied: list[str]) -> Iterator[None]:
    """Within it, values that are parsed can name only some import paths, and cannot read environment variables.

    jsonargparse has one policy per process and can only add to it, so that its settings are restored here. It checks both
    the path that a value names and the path where that object is defined; the longest matching entry decides.

    Args:
        allowed: Packages, modules or objects.
        denied: The same; ``*`` denies all that is not allowed.
    """
    names = ("import_path_verdicts", "import_paths_enforced", "instantiate_subclass_spec_in_any")
    before = {name: parsing_settings[name] for name in names}
    jsonargparse.set_parsing_settings(
        import_path_denylist=denied, import_path_allowlist=allowed, instantiate_subclass_spec_in_any=False
    )
    has_env = OmegaConf.has_resolver("oc.env")
    if has_env:
        OmegaConf.clear_resolver("oc.env")
    try:
        yield
    finally:
        parsing_settings.update(before)
        if has_env:
            OmegaConf.register_resolver("oc.env", oc.env, annotation_validation="off")


def restore_yaml(word: str) -> str:
    """An option whose value jsonargparse converted to Python syntax, converted back to YAML.

    jsonargparse passes options to the arguments of nested classes as text, converted by ``str`` once per class. At the
    second class ``null`` arrives as ``None``, which YAML reads as a string.
    """
    name, equals, text = word.partition("=")
    if not (equals and name.startswith("--") and "None" in text):
        return word
    try:
        value = ast.literal_eval(text)
        return word if isinstance(value, str) else f"{name}={json.dumps(value)}"
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # text that contains the word None
        return word
