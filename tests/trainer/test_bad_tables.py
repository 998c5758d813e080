"""Invalid definitions of tables, and damaged runs: one sentence and status 2, or the table without the damaged part."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from table_runs import NOTE, SMALL, TABLE3, write_proxy, write_run

from trainer.__main__ import main

TABLE = {
    "title": "T",
    "rows": {"a": {"name": "A", "words": "--model=model/dcgan{size}.yaml"}},
    "columns": {"c": {"heads": ["H"], "words": "{chairs}"}},
}
REMOVED = object()
# By the place of a value in a table: values, and what the message must contain.
VALUES = {
    ("rows",): {"has no rows": [None, {}, [1], "x"]},
    ("columns",): {"has no columns": [None, {}, [1], 3]},
    ("rows", "a"): {"rows.a is not a mapping": [None, "x", [1]], "rows.a lacks name": [{}, {"words": ""}]},
    ("columns", "c"): {"columns.c is not a mapping": [None], "columns.c lacks heads and words": [{}]},
    ("rows", "a", "name"): {"rows.a: name must be text": [3, None, ["x"]]},
    ("rows", "a", "note"): {"rows.a: note must be text": [3, ["x"]]},
    ("rows", "a", "words"): {
        "rows.a: words must be text": [3, None, ["--x=3"]],
        "the placeholder {nothing} is not defined": ["{nothing}"],
        "a placeholder is only a name": [
            *("{}", "{0}", "{chairs[0]}", "{chairs[x]}", "{chairs.__class__}", "{chairs!r}", "{chairs:>999999999999}")
        ],
        "is not a valid command line": ["{chairs", "'x"],
    },
    ("rows", "a", "same"): {
        "same must be a mapping of columns to cells": ["c", ["c"], {"c": 3}, {"c": "iggan-chairs_one"}],
        "no such table: 'nowhere'": [{"c": "nowhere/a-c"}],
        "refers to table1/a-c, which is not a cell": [{"c": "table1/a-c"}],
        "refers back to it": [{"c": "mine.yaml/a-c"}],
        "refer by same to 'd', which is not a column": [{"d": "table1/iggan-chairs_one"}],
    },
    ("columns", "c", "heads"): {"heads must be a list of texts": ["H", 3, None, [], [1], [["x"]]]},
    ("columns", "c", "words"): {"columns.c: words must be text": [3, None]},
    ("columns", "c", "paper"): {
        "paper must be a mapping of rows to numbers": ["a", None, ["a"], {"a": "x"}, {"a": float("nan")}, {"a": True}],
        "refers to 'b', which is not a row": [{"b": 1.0}],
        "has no cells": [{}],
    },
    ("title",): {"title must be text": [3, None, ["x"]], "lacks title": [REMOVED]},
    ("paper",): {"paper must be text": [3, {"a": 1}]},
    ("extractor",): {"extractor must be one of renders_small": ["imagnet", 3, ["imagenet"]]},
    ("runs",): {"runs must be the name of a table": ["../../x", "/tmp/x", "..", "", 3, ["x"]]},
    ("base",): {"has itself as a base": ["mine.yaml"], "no such config": ["nowhere.yaml"]},
}
CASES = [(place, value, text) for place, texts in VALUES.items() for text, values in texts.items() for value in values]


@pytest.mark.parametrize(("place", "value", "text"), CASES)
def test_a_bad_definition_is_refused_in_one_sentence(refused, workplace, place, value, text):
    table = copy.deepcopy(TABLE)
    part = table
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    if value is REMOVED:
        del part[place[-1]]
    (workplace / "mine.yaml").write_text(yaml.dump(table))
    for option in ("--gather", "--commands"):
        assert text in refused("table", "mine.yaml", *SMALL, option)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", "/tmp/x", "..", "", "x" * 300, "x\0y", "x\ny"])
@pytest.mark.parametrize("part", ["rows", "columns"])
def test_names_of_cells_cannot_leave_the_directory_of_the_runs(refused, workplace, part, name):
    (workplace / "mine.yaml").write_text(yaml.dump({**TABLE, part: {name: next(iter(TABLE[part].values()))}}))
    assert "becomes part of the name of a directory" in refused("table", "mine.yaml", *SMALL, "--commands")


def test_two_cells_of_one_name_are_refused(refused, workplace):
    row, column = TABLE["rows"]["a"], TABLE["columns"]["c"]
    table = {**TABLE, "rows": {"a": row, "a-b": row}, "columns": {"c": column, "b-c": column}}
    (workplace / "mine.yaml").write_text(yaml.dump(table))
    assert "two cells of mine are called a-b-c" in refused("table", "mine.yaml", *SMALL, "--commands")


def test_texts_of_a_table_are_shown_as_they_are(workplace):
    table = copy.deepcopy(TABLE) | {"title": "$\\frac{ \x1b[31m"}
    table["rows"]["a"]["name"] = "a | b\nc $\\frac{$"
    (workplace / "mine.yaml").write_text(yaml.dump(table))
    assert main(["table", "mine.yaml", *SMALL, "--gather"]) == 0
    text = Path("runs/tables/mine_small/mine.md").read_text()
    assert "| a \\| b c $\\frac{$ | not run |\n" in text and "\x1b" not in text


def line(**values: object) -> str:
    return json.dumps({"kimg": 8, "step": 80, "fid": 10.0, "note": NOTE} | values) + "\n"


MEASURED, LOST, NONE = "10.0 (141.9)", "interrupted, 8 of 8 kimg (141.9)", "finished, not measured by renders_small"
NOT_A_LINE, NOT_A_CONFIG = "line 1: not an evaluation", "is not the config of a table's run"
DEEP = "[" * 100_000
# By file: its content, and the cell or the message.
DAMAGE = {
    "run.json": {
        LOST: [*("", "null", "[]", "{", DEEP, b"\xff", '{"status": 3}', '{"status": "running", "pid": 99999999999}')],
        "odd, 8 of 8 kimg": ['{"status": "odd"}'],
        MEASURED: ['{"status": "finished", "pid": -1}', '{"status": "finished", "training_data": {"images": "x"}}'],
    },
    "metrics.jsonl": {
        NOT_A_LINE: [
            *(
                "null",
                "{",
                DEEP,
                "\0",
                line(fid="x"),
                line(fid=10**400),
                line(step="x"),
                line(step=None),
                line(kimg="x"),
            ),
            *(line(note=3), line(options=[]), line(kid="x")),
        ],
        "cannot be read": [b"\xff"],
        NONE: ["", line(fid=None), line(fid=float("nan")), line(note="other"), line(options={"data.images": 1})],
        MEASURED: [line(kid=None), line(sfid=None), line(kimg=float("nan"))],
    },
    "metrics.csv": {
        MEASURED: ["", "x", "kimg\nx\n", "kimg\nnan\n", "kimg\n1e999\n", "\0", b"\xff", "kimg\n" + "9" * 200_000]
    },
    "config.yaml": {
        NOT_A_CONFIG: [*("", "[]", "{", b"\xff", "data: 3", "a: &a [*a]", "model: []\ndata: {init_args: []}")],
    },
    "command.txt": {MEASURED: ["", "x", "\0", "python -m trainer validate"]},
}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (file, content, text)
        for file, texts in DAMAGE.items()
        for text, contents in texts.items()
        for content in contents
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_damaged_run_is_named_or_shown_as_unfinished(refused, monkeypatch, file, content, expected):
    monkeypatch.setattr("trainer.tables.report._plot", lambda path, results: path.touch())
    folder = write_run("fixed-cubes", 10.0)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    argv = [*TABLE3, "--gather", "--only=fixed-cubes"]
    if expected in (NOT_A_LINE, NOT_A_CONFIG, "cannot be read"):
        assert f"fixed-cubes/{file}" in (message := refused(*argv)) and expected in message
        return
    assert main(argv) == 0
    assert f"| Fixed | {expected}" in Path("runs/tables/table3_small/table3.md").read_text()


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl", "metrics.csv", "config.yaml", "command.txt"])
def test_damaged_runs_among_others_are_found_by_their_options_or_not_at_all(refused, monkeypatch, capsys, file):
    monkeypatch.setattr("trainer.tables.report._plot", lambda path, results: path.touch())
    argv = ["table", "table3", *SMALL, "--only=fixed-cubes"]
    capsys.readouterr()
    assert main([*argv, "--commands"]) == 0
    folder = write_run("fixed-cubes", 10.0, command=capsys.readouterr().out.splitlines()[0])
    damaged = Path("others/damaged")
    damaged.parent.mkdir()
    folder.rename(damaged)
    (damaged / file).write_bytes(b"\xff'")
    argv += ["--gather", "--from", "others"]
    if file in ("metrics.jsonl", "config.yaml", "command.txt"):
        assert f"others/damaged/{file}" in refused(*argv)
        return
    assert main(argv) == 0
    state = LOST if file == "run.json" else MEASURED
    assert f"| Fixed | {state}" in Path("runs/tables/table3_small/table3.md").read_text()


@pytest.mark.parametrize("value", [3, ["x"], {"a": 1}])
def test_a_damaged_pretraining_is_named_or_unknown(refused, capsys, monkeypatch, value):
    monkeypatch.setattr("trainer.tables.report._plot", lambda path, results: path.touch())
    argv = [*TABLE3, "--gather", "--only=cubes"]
    write_run("fixed-cubes", 10.0, proxy=write_proxy("proxy_cubes_32", value))
    assert main(argv) == 0
    assert "pre-trained on unknown shapes" in capsys.readouterr().out
    write_run("retrained-cubes", 10.0, proxy=value)
    assert "proxy_checkpoint must be a file" in refused(*argv)
