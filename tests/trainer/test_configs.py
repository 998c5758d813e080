"""Finding and composing configs, without the parser."""

import pytest
import yaml

from trainer.cli import config_composition
from trainer.cli.config_composition import compose, find_config, merge
from utils.errors import InputError

NUMBERS = {"size": 8, "batches": 4, "cameras": {"azimuth": [0, 90]}}  # the content of data/numbers.yaml


def test_parts_are_relative_to_the_file_that_names_them(workplace, monkeypatch):
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    values = compose(["../toy.yaml"]).values
    assert values["model"]["class_path"] == "toy.ToyGAN"
    assert values["data"]["init_args"] == NUMBERS
    assert values["model"]["init_args"]["optimizer_g"]["init_args"]["lr"] == 2e-4


def test_configs_in_the_current_directory_override_the_projects(workplace, monkeypatch, tmp_path):
    project = tmp_path / "project"
    (project / "model").mkdir(parents=True)
    (project / "ours.yaml").write_text("seed_everything: 1")
    (project / "toy.yaml").write_text("seed_everything: 2")
    monkeypatch.setattr(config_composition, "PROJECT_CONFIGS", project)
    assert find_config("ours.yaml") == project / "ours.yaml"
    assert find_config("ours") == project / "ours.yaml"
    assert compose(["toy.yaml"]).values["seed_everything"] == 3


def test_a_part_and_overrides_in_one_file(workplace):
    (workplace / "demo.yaml").write_text(
        """
base: toy.yaml
model:
  init_args: {latent_size: 2}
data:
  base: data/numbers.yaml
  init_args: {batches: 1}
trainer:
  callbacks+: [{class_path: toy.WriteShapes, init_args: {name: more}}]
"""
    )
    composed = compose(["demo.yaml"])
    assert composed.values["model"]["init_args"]["latent_size"] == 2
    assert composed.values["model"]["init_args"]["renderer"]["init_args"]["width"] == 5
    assert composed.values["data"]["init_args"] == NUMBERS | {"batches": 1}
    assert [c.get("init_args") for c in composed.values["trainer"]["callbacks"]] == [None, {"name": "more"}]
    assert composed.origin("model.init_args.latent_size").name == "demo.yaml"
    assert composed.origin("model.init_args.renderer.init_args.width").name == "gan.yaml"
    assert composed.origin("trainer.max_epochs").name == "short.yaml"


def test_another_class_drops_the_arguments_of_the_first():
    under = {"class_path": "a.A", "init_args": {"x": 1, "y": 2}}
    assert merge(under, {"init_args": {"y": 3}}) == {"class_path": "a.A", "init_args": {"x": 1, "y": 3}}
    assert merge(under, {"class_path": "a.A", "init_args": {"y": 3}})["init_args"] == {"x": 1, "y": 3}
    assert merge(under, {"class_path": "a.B", "init_args": {"y": 3}}) == {"class_path": "a.B", "init_args": {"y": 3}}


def test_lists_are_appended_also_to_lists_that_append():
    assert merge({"callbacks": [1]}, {"callbacks+": [2]}) == {"callbacks": [1, 2]}
    assert merge({"callbacks+": [1]}, {"callbacks+": [2]}) == {"callbacks+": [1, 2]}
    assert merge({"callbacks": None}, {"callbacks+": [2]}) == {"callbacks": None, "callbacks+": [2]}


def test_an_argument_may_be_called_base(workplace):
    (workplace / "wide.yaml").write_text("model: {class_path: x.Y, init_args: {base: 128}}")
    assert compose(["wide.yaml"]).values["model"]["init_args"] == {"base": 128}


def test_later_configs_win(workplace):
    (workplace / "more.yaml").write_text("data: {init_args: {batches: 9}}")
    assert compose(["toy.yaml", "more.yaml"]).values["data"]["init_args"] == NUMBERS | {"batches": 9}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n b: 2\n", "mistake.yaml, line 2"),
        ("a: [1\n", "mistake.yaml, line"),
        ("a: 1\na: 2\n", "duplicate key 'a'"),
        ("- 1\n", "must contain a mapping, not list"),
        ("3: 1\n", "the key 3 is not a string"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("base: mistake.yaml\n", "has itself as a base"),
        ("base: toi.yaml\n", "did you mean toy.yaml"),
        ("a: \x00\n", "is not valid YAML"),
        ("? {a: 1}\n: 2\n", "is not a string"),
        ("a: 1\n---\na: 2\n", "line 2: expected a single document in the stream, but found another document"),
        ("a: &x 1\nb: &x 2\n", "line 2: found duplicate anchor 'x'"),
        ("a: *x\n", "line 1: found undefined alias 'x'"),
        ("a: 1\n".encode("utf-16"), "mistake.yaml is not text in UTF-8; save it as UTF-8"),
    ],
)
def test_errors_name_file_and_line(workplace, text, message):
    (workplace / "mistake.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        compose(["mistake.yaml"])


def test_a_mapping_may_override_what_it_merges(workplace):
    (workplace / "merged.yaml").write_text(
        "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {y: 4, <<: *b}\nd: {<<: [*b, *a]}\n"
    )
    assert compose(["merged.yaml"]).values == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4},
        "d": {"x": 1, "y": 3},
    }


def test_only_decimal_hexadecimal_and_binary_integers_are_numbers(workplace):
    """A category of ShapeNet begins with 0, which YAML 1.1 reads in octal."""
    (workplace / "numbers.yaml").write_text(
        "{a: 03001627, b: 010, c: '1:30', d: 1:30, e: 0, f: -12, g: 0x1F, h: 0b101, i: +3, j: 1_000}"
    )
    composed = compose(["numbers.yaml"])
    texts = {"a": "03001627", "b": "010", "c": "1:30", "d": "1:30"}
    assert composed.values == texts | {"e": 0, "f": -12, "g": 31, "h": 5, "i": 3, "j": 1000}
    assert yaml.safe_load(composed.text()) == composed.values  # also by other readers


def test_composed_text_parses_to_the_same_values(workplace):
    (workplace / "numbers.yaml").write_text("{a: 1e-5, b: 2.5E+3, c: .inf, d: '1e-5', e: 007, f: 2024-01-01, g: 1_000}")
    composed = compose(["numbers.yaml"])
    assert composed.values["a"] == 1e-5
    assert composed.values["b"] == 2500
    assert composed.values["d"] == "1e-5"
    assert composed.values["f"] == "2024-01-01"
    (workplace / "again.yaml").write_text(composed.text())
    assert compose(["again.yaml"]).values == composed.values
    assert yaml.safe_load(composed.text())["c"] == float("inf")


def named(values: dict, path: str = "") -> set[str]:
    """The dotted paths of all leaves."""
    deeper = [named(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}"} for k, v in values.items()]
    return set().union(*deeper)


@pytest.mark.parametrize(
    "method", ["iggan", "absorption", "lit_absorption", "visual_hull", "emission_absorption", "dcgan", "meshgan"]
)
def test_the_papers_model_overrides_every_value_of_the_small_one(method):
    parts = config_composition.PROJECT_CONFIGS / "model"
    papers, small = (yaml.safe_load((parts / f"{method}{size}.yaml").read_text()) for size in ("", "_32"))
    bases = []
    while "base" in papers:
        bases.append(papers)
        papers = yaml.safe_load((parts / papers["base"]).read_text())
    known = named(papers).union(*map(named, bases))
    assert named(small) - {"base"} <= known, (
        "the model of the paper's size must set every value that the small model sets"
    )
