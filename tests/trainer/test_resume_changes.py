"""Which settings of a resumed run may change."""

import pytest
import yaml

from trainer.runs import resume
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError


def test_a_kept_proxy_is_not_reported_as_a_change(tmp_path):
    run = RunDirectory(tmp_path)
    before = {"model": {"init_args": {"proxy_checkpoint": "runs/proxy/001/last.ckpt"}}, "data": {"root": "here"}}
    run.config.write_text(yaml.safe_dump(before))
    after = {"model": {"init_args": {"proxy_checkpoint": "proxy.yaml"}}, "data": {"root": "there"}}
    assert resume.changes(run, after) == ["data.root there (was here)"]
    assert resume.known_proxy(run) == "runs/proxy/001/last.ckpt"


def test_a_run_whose_learning_rate_falls_to_zero_cannot_become_longer(tmp_path):
    """It would end with other weights than a run that was started with the longer length."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()

    def settings(kimg: float, name: str, **options) -> dict:
        model = {"class_path": f"lightning_modules.{name}", "init_args": options}
        return {"model": model, "data": {"init_args": {"total_kimg": kimg}}}

    for name, options in (("NeuralRendererModule", {"decay_learning_rate": True}), ("RenderClassifierModule", {})):
        run.config.write_text(yaml.safe_dump(settings(2.0, name, **options)))
        assert resume.changes(run, settings(2.0, name, **options)) == []
        with pytest.raises(
            InputError, match="run falls to 0 at its 2 kimg, so it cannot become longer; train the longer run"
        ):
            resume.changes(run, settings(3.0, name, **options))
    constant = {"name": "NeuralRendererModule", "decay_learning_rate": False}
    run.config.write_text(yaml.safe_dump(settings(2.0, **constant)))
    assert resume.changes(run, settings(3.0, **constant)) == ["data.init_args.total_kimg 3.0 (was 2.0)"]


def test_a_part_that_appears_or_disappears_is_a_change(tmp_path):
    """Such as an augmentation: null on one side, a class with arguments on the other."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    part = {"class_path": "networks.DiffAugment", "init_args": {"mirror": True}}
    without, with_part = ({"model": {"init_args": {"augment": augment}}} for augment in (None, part))
    for before, after, message, different in (
        (without, with_part, "augment None, not networks.DiffAugment", {"class_path", "init_args.mirror"}),
        (with_part, without, "augment networks.DiffAugment, not None", {""}),
    ):
        run.config.write_text(yaml.safe_dump(before))
        with pytest.raises(InputError, match=f"run was started with model.init_args.{message}; drop this change"):
            resume.changes(run, after)
        keys = {f"model.init_args.augment.{name}".rstrip(".") for name in different}
        assert resume.differences(run, after).keys() == keys
        assert resume.changes(run, before) == [] and resume.differences(run, before) == {}
    new = {"model": {"init_args": {"augment": part, "later": {"class_path": "x.Y"}}}}  # unknown to the run's version
    run.config.write_text(yaml.safe_dump(with_part))
    assert resume.changes(run, new) == []
