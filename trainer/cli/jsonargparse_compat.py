"""How configs are parsed, set once for the process."""

import ast
import json

import jsonargparse

# Both let ${...} follow overrides; the second where it stands for a whole dataclass, such as views: ${data.init_args.views}.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=["is_pure_dataclass"])

PARSER_MODE = "omegaconf+"


def yaml_word(word: str) -> str:
    """An option whose value jsonargparse has written as Python does, written as YAML again.

    It hands an option down to the arguments of a class as text, one class after the other, made by ``str``: at the second
    class ``null`` arrives as ``None``, which is no null in YAML.
    """
    name, equals, text = word.partition("=")
    if not (equals and name.startswith("--") and "None" in text):
        return word
    try:
        value = ast.literal_eval(text)
        return word if isinstance(value, str) else f"{name}={json.dumps(value)}"
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # a text in which the word stands
        return word
