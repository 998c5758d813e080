"""The parts of a config that commands load which do not train."""

import pytest

from datamodules import HeadsDataModule
from trainer.runs.loading import ExperimentConfig
from utils.errors import InputError


def test_a_model_may_be_the_name_of_a_class(workplace):
    (workplace / "heads.yaml").write_text("model: toy.ToyGAN\ndata: {class_path: datamodules.HeadsDataModule}\n")
    assert isinstance(ExperimentConfig("heads.yaml", []).load_data(), HeadsDataModule)


def test_null_arguments_are_refused(workplace):
    (workplace / "null.yaml").write_text("model: {class_path: toy.ToyGAN, init_args: null}\n")
    with pytest.raises(InputError, match=r"null\.yaml: model\.init_args"):
        ExperimentConfig("null.yaml", [], model_only=True)
