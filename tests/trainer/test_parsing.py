"""Options reach the arguments of nested classes unchanged."""

import pytest
import yaml

from trainer.__main__ import main
from trainer.cli.jsonargparse_compat import restore_yaml


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--model.generator.max_size=null", ("generator", "max_size")),
        ("--model.init_args.generator.init_args.max_size=null", ("generator", "max_size")),
        ("--model.views.fov=null", ("views", "fov")),
        ("--model.extractor_weights=null", ("extractor_weights",)),
    ],
)
def test_null_is_null_at_every_depth(option, key, capsys):
    assert main(["fit", "--config", "heads.yaml", option, "--print_config"]) == 0
    value = yaml.safe_load(capsys.readouterr().out)["model"]
    for name in key:
        value = value["init_args"][name]
    assert value is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--a.b=None", "--a.b=null"),
        ("--a=[1, None, 'x']", '--a=[1, null, "x"]'),
        ("--a={'b': None}", '--a={"b": null}'),
        ("--a=None of them", "--a=None of them"),
        ("--a='None'", "--a='None'"),
        ("--a=3", "--a=3"),
        ("None", "None"),
    ],
)
def test_python_syntax_is_converted_to_yaml(word, expected):
    assert restore_yaml(word) == expected
