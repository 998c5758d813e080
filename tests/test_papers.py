"""``docs/papers.md`` lists the numbers and formulas of the papers; its values are those of the configs and defaults."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from trainer.cli.config_composition import compose

ROOT = Path(__file__).parents[1]
COLUMNS = ["section", "the paper", "ours", "set by", "verified by", "status"]
STATUSES = ("as printed", "choice", "deviation: ", "erratum: ", "not measured")
LOADER = type("Loader", (yaml.SafeLoader,), {})  # reads 2e-4 as a number, unlike YAML 1.1
LOADER.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?\d+(\.\d*)?([eE][-+]?\d+)?$"), list("-0123456789")
)


def rows() -> list[dict[str, str]]:
    """The rows of all tables of the page."""
    found = []
    for line in (ROOT / "docs/papers.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in ("section", "of", "---"):
            assert len(cells) == len(COLUMNS), line
            found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


ROWS = rows()


def values(cell: str) -> list[Any]:
    """What a cell has in code style, as YAML."""
    return [yaml.load(text, LOADER) for text in re.findall(r"`([^`]+)`", cell)]


def setting(cell: str) -> Any:
    """The value that *set by* names: of a config, of a class's argument, or of a module."""
    owner, key = re.findall(r"`([^`]+)`", cell)
    value = of_config(owner, key) if owner.endswith(".yaml") else of_code(owner, key)
    return len(value) if cell.startswith("len ") else value


@cache
def composed(name: str) -> Any:
    part = name.partition("/")[0]
    config = compose([name]).values if part != "model" else {"model": compose([], {"model": name}).values["model"]}
    return OmegaConf.to_container(OmegaConf.create(config if part != "model" else config["model"]))


def of_config(name: str, key: str) -> Any:
    """The value of a dotted key without ``init_args``."""
    node = composed(name)
    for part in key.split("."):
        if isinstance(node, list):
            node = node[int(part)]
            continue
        node = node["init_args"] if part not in node and "init_args" in node else node
        assert part in node, f"{name} has no {key}"
        node = node[part]
    if isinstance(node, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", node)):
        return of_config(name, reference[1])
    return node


def of_code(owner: str, name: str) -> Any:
    """The default of a class's argument, or a constant of a module."""
    try:
        return getattr(importlib.import_module(owner), name)
    except ImportError:
        module, _, class_name = owner.rpartition(".")
        return inspect.signature(getattr(importlib.import_module(module), class_name)).parameters[name].default


def plain(value: Any) -> Any:
    """Tuples as lists and numbers as floats, so that values compare by content."""
    if isinstance(value, bool | str | None):
        return value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else float(value)


@cache
def defined_tests(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def label(row: dict[str, str]) -> str:
    return f"{row['section']} {row['the paper']}"[:60]


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_row_agrees_with_the_code(row):
    assert row["status"].startswith(STATUSES), row["status"]
    names = re.findall(r"`([^`]+)`", row["set by"])
    assert names or row["status"] == "not measured"
    if len(names) == 2:
        ours = values(row["ours"])
        found = setting(row["set by"])
        if ours and not isinstance(found, str):
            assert plain(ours[0]) == plain(found)
        elif ours:  # a word, or options that contain the number
            assert found in (row["ours"].replace("`", ""), ours[0])
    elif names and "/" in names[0]:
        assert (ROOT / names[0]).is_file(), names[0]
    elif names:
        module, _, name = names[0].rpartition(".")
        assert hasattr(importlib.import_module(module), name), names[0]
    printed = values(row["the paper"])
    if row["status"].startswith("as printed") and printed:
        ours = values(row["ours"])
        assert plain(printed[0]) == plain(ours[0]), "the paper's value and ours differ"


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_tests_of_a_row_exist(row):
    verified, names = re.findall(r"`([^`]+)`", row["verified by"]), re.findall(r"`([^`]+)`", row["set by"])
    for path, _, name in (test.partition("::") for test in verified):
        assert defined_tests(path) if not name else name in defined_tests(path), f"{path} has no test {name}"
    # A row that no value is read for needs a test.
    compared = len(names) == 2 and values(row["ours"])
    assert verified or compared or row["status"] == "not measured"


def test_page_lists_both_papers():
    sections = {row["section"].partition(",")[0] for row in ROWS}
    assert {"B.1", "B.2", "B.3", "B.4", "B.5", "B.6", "C", "3", "4", "5", "6", "7", "8"} <= sections
    equations = {match for row in ROWS for match in re.findall(r"eq\. (\d+)", row["section"])}
    assert equations == {str(i) for i in range(5, 15)}  # 1 to 4 define kinds of supervision
    figures = " ".join(row["section"] for row in ROWS if "figure" in row["section"])
    assert all(f"3 {letter}" in figures for letter in "abcde")
