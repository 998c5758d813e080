"""Settings and workarounds for jsonargparse, shared by all parsers of configs."""

import ast
import json

import jsonargparse

# Both let ${...} follow overrides; the second also for whole dataclasses, as in views: ${data.init_args.views}.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=["is_pure_dataclass"])

PARSER_MODE = "omegaconf+"


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
