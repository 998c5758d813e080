"""Choice of the metrics of images by the module and by the data."""

import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from masked_photographs import write_photographs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from small_iggan import VIEWS, iggan, renders, trainer

from callbacks import EvaluationLog, Report, SampleGrids, ShapeWriter
from callbacks.html_report import write_report
from callbacks.metrics_log import METRICS, comparable_lines, plot_curve, plot_metrics, read_metrics
from callbacks.monitor import DEFAULT
from datamodules import ChanterelleDataModule
from lightning_modules import VoxelGANModule
from metrics.kid import KernelDistance
from metrics.manifolds import MANIFOLD_METRICS
from networks import DCGANDiscriminator, VoxelGenerator
from renderers import EmissionAbsorptionRenderer, InputError, OpenGLRenderer

FULL_EVALUATION = {"limit_val_batches": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 10)


def photographs(root, **options) -> ChanterelleDataModule:
    settings = {"image_size": 16, "batch_size": 4, "total_kimg": 0.008, **options}
    settings.setdefault("renderer", OpenGLRenderer(16))
    return ChanterelleDataModule(root, views=VIEWS, **settings)


def validate(folder, module, data, **options):
    return trainer(folder, **{**FULL_EVALUATION, **options}).validate(module, data, verbose=False)[0]


def test_few_images_are_compared_by_kid_only_and_repeatably(tmp_path, folder):
    module, data = iggan(), photographs(folder)
    first = validate(tmp_path, module, data)
    assert first.keys() == {"kid", "kid_std", "occupancy", "pairwise_iou", "kimg", "step"}
    assert first["kid"] > 0 and first["kid_std"] > 0
    assert module.evaluation_note == (
        "extractor renders_small, 10 generated against 10 real images, KID over 100 subsets of 5"
    )
    assert validate(tmp_path, module, data) == first  # from the cached statistics of the first evaluation
    assert validate(tmp_path, iggan(cache_dir=str(tmp_path / "other")), data) == first
    extractor = module.fid.extractor
    distance = KernelDistance(5)
    distance.update(extractor(data.reference()), real=True)
    for i, count in enumerate((4, 4, 2)):  # the batches of the evaluation
        generated = module.generate_for_metrics(module.latents(count, "evaluation", i, 0), i, 0)
        distance.update(extractor((generated * 255).round().byte()), real=False)
    assert (first["kid"], first["kid_std"]) == pytest.approx(distance.compute(), rel=1e-6)


def test_only_fid_is_reported_by_default(tmp_path):
    plain, with_kid = iggan(), iggan(kid_subset=4)
    first = validate(tmp_path, plain, renders(steps=1))
    assert {"fid", "sfid"} <= first.keys() and not {"kid", *MANIFOLD_METRICS} & first.keys()
    assert validate(tmp_path, iggan(kid_subset=0), renders(steps=1)) == first
    second = validate(tmp_path, with_kid, renders(steps=1))  # 8 images, 128 features
    assert second.keys() - first.keys() == {"kid", "kid_std"} and first.keys() - second.keys() == {"fid", "sfid"}


def test_fid_and_kid_are_reported_with_enough_images(tmp_path):
    module, data = iggan(kid_subset=4), renders(steps=1, reference_images=128)  # as many as features
    first = validate(tmp_path, iggan(), data)
    both = validate(tmp_path, module, data)
    assert {"fid", "sfid", "kid", "kid_std"} <= both.keys() and both["fid"] == first["fid"]


def test_module_option_overrides_the_data(tmp_path, folder):
    module = iggan(kid_subset=3)
    validate(tmp_path, module, photographs(folder))
    assert module.evaluation_note.endswith("subsets of 3")
    assert "fid" in validate(tmp_path, iggan(kid_subset=0), photographs(folder))


def test_subsets_larger_than_the_data_are_rejected_before_evaluation(tmp_path, folder):
    with pytest.raises(
        InputError, match=r"subsets of 11 images, but there are 10 real images; set kid_subset to at most 10"
    ):
        validate(tmp_path, iggan(kid_subset=11), photographs(folder))
    with pytest.raises(InputError, match=r"subsets of 9 images, but there are 8 real images"):
        validate(tmp_path, iggan(kid_subset=9), renders(steps=1))


def test_incomplete_evaluation_gives_nan(tmp_path, folder):
    module = iggan(kid_subset=8, cache_dir=str(tmp_path))
    first = validate(tmp_path, module, photographs(folder), limit_val_batches=1)
    assert first["kid"] != first["kid"] and "4 generated against 4 real" in module.evaluation_note


@pytest.mark.parametrize("subset", [0, 4])
def test_incomplete_evaluation_does_not_affect_later_ones(tmp_path, subset):
    data, incomplete = renders(steps=1), iggan(kid_subset=subset, cache_dir=str(tmp_path / "incomplete"))
    whole = validate(tmp_path, iggan(kid_subset=subset, cache_dir=str(tmp_path / "whole")), data)
    validate(tmp_path, incomplete, data, limit_val_batches=1)
    assert validate(tmp_path, incomplete, data) == whole  # with the same module
    validate(tmp_path, iggan(kid_subset=subset, cache_dir=str(tmp_path / "again")), data, limit_val_batches=1)
    new = iggan(kid_subset=subset, cache_dir=str(tmp_path / "again"))
    assert validate(tmp_path, new, data) == whole


def test_an_interrupted_evaluation_does_not_affect_the_next_one(tmp_path):
    class Stop(pl.Callback):
        def on_validation_batch_end(self, *_):
            raise RuntimeError("stopped")

    data, module = renders(steps=1), iggan(cache_dir=str(tmp_path / "one"))
    with pytest.raises(RuntimeError, match="stopped"):
        validate(tmp_path, module, data, callbacks=[Stop()])
    assert validate(tmp_path, module, data) == validate(tmp_path, iggan(cache_dir=str(tmp_path / "other")), data)
    assert "8 generated against 8 real images" in module.evaluation_note


def test_run_with_kid_writes_its_curve_and_report(tmp_path, folder, capsys):
    callbacks = [SampleGrids(2, 2), EvaluationLog(), ShapeWriter(("binvox",)), Report()]
    run = trainer(tmp_path, callbacks=callbacks, val_check_interval=1, **FULL_EVALUATION)
    run.fit(iggan(samples=2), photographs(folder))
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2] and all("fid" not in line for line in lines)
    assert all(line["kid"] == line["kid"] and "KID over" in line["note"] for line in lines)
    printed = capsys.readouterr().out
    assert f"KID {lines[0]['kid']:.3g} ± {lines[0]['kid_std']:.2g} at 0.004 kimg, {lines[1]['kid']:.3g} ±" in printed
    assert (tmp_path / "kid.png").exists() and not (tmp_path / "fid.png").exists()
    page = (tmp_path / "report.html").read_text()
    assert "<h2>KID</h2>" in page and "<h2>FID</h2>" not in page and "<h2>Real images</h2>" in page


def test_a_hundred_images_give_precision_recall_density_and_coverage(tmp_path):
    run = trainer(tmp_path, callbacks=[EvaluationLog(), Report()], val_check_interval=1, **FULL_EVALUATION)
    run.fit(iggan(), renders(steps=1, reference_images=100))
    (line,) = read_metrics(tmp_path)
    assert line.keys() >= set(MANIFOLD_METRICS) and all(line[name] >= 0 for name in MANIFOLD_METRICS)
    assert run.callback_metrics["density"] == pytest.approx(line["density"])  # what loggers receive
    assert (tmp_path / "image_metrics.png").stat().st_size > 1000
    page = (tmp_path / "report.html").read_text()
    assert "Fidelity and variety" in page and page.count("<b>image_coverage</b>") == 1


def test_kid_curve_may_be_negative_and_metric_may_change_during_a_run(tmp_path):
    lines = [
        {"kimg": 0, "fid": 3.0},
        {"kimg": 1, "kid": -0.01, "kid_std": 0.02},
        {"kimg": 2, "kid": 0.0, "kid_std": 0.0},
    ]
    plot_curve(tmp_path / "kid.png", [line | {"note": "note"} for line in lines], "kid")
    assert (tmp_path / "kid.png").stat().st_size > 1000


def evaluations(*notes: str) -> list[dict]:
    """One evaluation per note, with metrics 10, 11, and so on."""
    names = ("fid", "sfid", "precision", "mmd")
    return [{"step": i, "kimg": i, **dict.fromkeys(names, 10 + i), "note": note} for i, note in enumerate(notes)]


IMAGES = "8 generated against 8 real images"
CHANGED = evaluations(f"extractor a, {IMAGES}", f"extractor b, {IMAGES}", f"extractor b, {IMAGES}")


def test_lines_are_comparable_by_extractor_and_numbers_of_images_and_shapes():
    def compared(*notes: str) -> list[int]:
        return [line["step"] for line in comparable_lines(evaluations(*notes))]

    growing = ("", ", generated at 8² and enlarged to 16²", ", 16² faded in by 25%", ", KID over 100 subsets of 4")
    assert compared(*(f"extractor a (1f), {IMAGES}{part}" for part in growing)) == [0, 1, 2, 3]
    assert compared(f"extractor a (1f), {IMAGES}", f"extractor a (2f), {IMAGES}") == [1]
    assert compared("extractor a, 4 generated against 8 real images", f"extractor a, {IMAGES}") == [1]
    assert compared("other", "", "other") == [0, 2]
    assert comparable_lines([]) == []
    assert len(comparable_lines([{"step": 0}, {"step": 1}])) == 2  # without notes
    assert comparable_lines(CHANGED, "mmd") == CHANGED
    fewer = ", 6 shapes against as many held-out ones"
    assert compared(f"extractor a, {IMAGES}{fewer}", f"extractor a, {IMAGES}") == [1]
    lines = evaluations(f"extractor a, {IMAGES}", f"extractor b, {IMAGES}{fewer}", f"extractor a, {IMAGES}{fewer}")
    steps = {name: [line["step"] for line in comparable_lines(lines, name)] for name in ("fid", "mmd", "occupancy")}
    assert steps == {"fid": [0, 2], "mmd": [1, 2], "occupancy": [0, 1, 2]}


def test_plots_have_values_of_one_extractor_and_name_it(tmp_path, monkeypatch):
    plotted, titles = [], []
    plot, suptitle = Axes.plot, Figure.suptitle
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **k: (plotted.append(list(y)), plot(axes, x, y, **k))[1])
    monkeypatch.setattr(
        Figure, "suptitle", lambda figure, text, **k: (titles.append(text), suptitle(figure, text, **k))[1]
    )
    plot_curve(tmp_path / "fid.png", CHANGED, "fid")
    plot_metrics(tmp_path / "image_metrics.png", CHANGED, ["precision"])
    assert plotted == [[11, 12], [11, 12]] and [" ".join(text.split()) for text in titles] == [CHANGED[-1]["note"]]
    plot_metrics(tmp_path / "shape_metrics.png", CHANGED, ["mmd"])  # no extractor
    assert plotted[2:] == [[10, 11, 12]] and len(titles) == 1


def test_report_and_summary_show_one_extractor(tmp_path, capsys):
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in CHANGED))
    page = write_report(tmp_path, DEFAULT).read_text()
    assert ">11</td>" in page and ">10</td>" not in page and "only metrics.jsonl holds: 1." in page
    EvaluationLog().on_fit_end(SimpleNamespace(default_root_dir=tmp_path, fast_dev_run=False, callbacks=[]), iggan())
    printed = capsys.readouterr().out
    assert printed == f"SFID 11.0 at 1 kimg, 12.0 at 2 kimg, best 11.0 at 1 kimg ({CHANGED[-1]['note']})\n"


def colored_volumes(**options) -> VoxelGANModule:
    torch.manual_seed(0)
    return VoxelGANModule(
        VoxelGenerator(8, latent_size=8, width=16, out_channels=4, initial_occupancy=0.6),
        DCGANDiscriminator(16, channels=3, width=8),
        EmissionAbsorptionRenderer(16),
        EmissionAbsorptionRenderer(16),
        VIEWS,
        samples=2,
        **options,
    )


def test_coloured_volumes_are_evaluated_in_colour_without_normals(tmp_path, folder):
    module = colored_volumes(extractor="renders_color")
    renderer = EmissionAbsorptionRenderer(16)
    data = photographs(folder, channels=3, renderer=renderer)
    run = trainer(tmp_path, callbacks=[SampleGrids(2, 2), EvaluationLog(), ShapeWriter(), Report()], **FULL_EVALUATION)
    run.fit(module, data)
    assert module.generate_for_metrics(module.latents(2, "x"), 0).shape == (2, 3, 16, 16)
    assert module.sample_grids(2, 2, 0).keys() == {"samples", "volumes"}
    assert {p.suffix for p in (tmp_path / "shapes").iterdir()} == {".glb", ".obj", ".binvox", ".png"}
    assert not list((tmp_path / "shapes").glob("*_normals.png")) and not (tmp_path / "normals").exists()


def test_grey_extractor_is_refused_for_colour_data(tmp_path, folder):
    for start in (trainer(tmp_path).fit, trainer(tmp_path, **FULL_EVALUATION).validate):
        with pytest.raises(InputError, match="data have colour, which extractor 'renders_small' does not see"):
            start(colored_volumes(), photographs(folder, channels=3))


def test_checkpoint_with_a_grey_extractor_is_evaluated_with_a_warning(tmp_path, folder, caplog):
    data = photographs(folder, channels=3)
    run = trainer(tmp_path, **FULL_EVALUATION)
    run.fit(colored_volumes(extractor="renders_color"), data)
    run.save_checkpoint(tmp_path / "run.ckpt")
    old = colored_volumes()
    run = trainer(tmp_path, **FULL_EVALUATION)
    (figures,) = run.validate(old, data, ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)
    assert "kid" in figures
    assert "extractor 'renders_small' does not see" in caplog.text


def test_colour_photographs_need_a_colour_model(tmp_path, folder):
    with pytest.raises(InputError, match="real images are 3 x 16 x 16, generated images are 1 x 16 x 16"):
        trainer(tmp_path).fit(iggan(), photographs(folder, channels=3))
