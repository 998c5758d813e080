import contextlib
import copy
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_iggan import renders, trainer

from callbacks.checkpointing import RunCheckpoint
from callbacks.metrics_log import read_metrics
from lightning_modules import ImageGANModule
from lightning_modules.base import seeded_generator
from networks import DCGANDiscriminator, DCGANGenerator
from renderers import InputError
from trainer.__main__ import main
from utils.signals import Signals

SOFTPLUS = torch.nn.functional.softplus


def image_gan(size: int = 16, **options) -> ImageGANModule:
    torch.manual_seed(0)
    return ImageGANModule(DCGANGenerator(size, latent_size=8, width=16), DCGANDiscriminator(size, width=8), **options)


def test_training_step_matches_reference(tmp_path):
    """Losses and all weights after one step equal those of the same two updates written out."""
    module = image_gan()
    reference = copy.deepcopy(module)
    run = trainer(tmp_path)
    run.fit(module, renders(steps=1))

    real = next(iter(renders(steps=1).train_dataloader()))[0].float() / 255
    z = torch.randn(4, 8, generator=seeded_generator(0, 0, "latents"))
    g, d = reference.generator, reference.discriminator
    g_step = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_step = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    fake = g(z)
    logits = d(torch.cat([real, fake.detach()]))
    d_loss = SOFTPLUS(-logits[:4]).mean() + SOFTPLUS(logits[4:]).mean()
    d_loss.backward()
    d_step.step()
    g_loss = SOFTPLUS(-d.eval()(fake)).mean()
    for p, gradient in zip(g.parameters(), torch.autograd.grad(g_loss, list(g.parameters())), strict=True):
        p.grad = gradient
    g_step.step()

    assert run.callback_metrics["d"].item() == pytest.approx(d_loss.item(), rel=1e-5)
    assert run.callback_metrics["g"].item() == pytest.approx(g_loss.item(), rel=1e-5)
    for ours, theirs in ((module.generator, g), (module.discriminator, d)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6), name
    assert (module.step, module.images_seen) == (1, 4)


def test_evaluation_reports_only_fid(tmp_path):
    module, data = image_gan(), renders(steps=1)
    run = trainer(tmp_path, limit_val_batches=1.0)
    first = run.validate(module, data, verbose=False)[0]
    assert first == run.validate(module, data, verbose=False)[0]
    assert first.keys() == {"fid", "sfid", "kimg", "step"} and first["fid"] > 0


def test_ema_batch_norm_statistics_match_its_weights():
    module = image_gan()
    for norm in module.generator_ema.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.fill_(5.0)
    module.measure_batch_norm()
    z = module.latents(512, "test")
    with torch.no_grad():
        trained = copy.deepcopy(module.generator_ema).train()(z)
    assert torch.allclose(module.generate_for_metrics(z).mean(), trained.mean(), atol=2e-3)


def test_last_checkpoint_has_the_statistics_of_its_ema(tmp_path):
    """Also if the run has trained since its last evaluation."""
    callback = RunCheckpoint(tmp_path, 10, 0, Signals(), lambda *_: None)
    module = image_gan()
    trainer(tmp_path, limit_val_batches=1.0, val_check_interval=2, callbacks=[callback]).fit(module, renders(steps=3))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    module.measure_batch_norm()
    for name, value in module.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_parts_that_do_not_fit_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"generator.image_size is 16, discriminator.image_size is 32; set both"):
        ImageGANModule(DCGANGenerator(16), DCGANDiscriminator(32))
    with pytest.raises(InputError, match=r"generator.channels is 3, discriminator.channels is 1; set both"):
        ImageGANModule(DCGANGenerator(16, channels=3), DCGANDiscriminator(16))
    with pytest.raises(InputError, match="real images are 1 x 16 x 16, generated images are 1 x 8 x 8"):
        trainer(tmp_path).fit(image_gan(8), renders(steps=1))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """Return the directory of a finished run with all callbacks of the demo, and its output."""
    folder, printed = tmp_path_factory.mktemp("dcgan"), io.StringIO()
    options = [
        "--config=demo.yaml",
        "--model=model/dcgan_32.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.val_check_interval=1.0",
        "--model.init_args.generator.init_args.width=16",
        "--model.init_args.discriminator.init_args.width=8",
        "--data.init_args.shapes.init_args.count=8",
        "--data.init_args.reference_shapes.init_args.count=8",
        "--data.init_args.reference_images=16",
        "--data.init_args.batch_size=4",
        "--data.init_args.total_kimg=0.008",
    ]
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert main(["fit", *options]) == 0
    return folder / "runs" / "demo_dcgan_32" / "001", printed.getvalue()


def test_callbacks_work_without_shapes(run):
    folder, printed = run
    assert [p.name for p in sorted((folder / "samples").glob("*.png"))] == ["000000.00kimg.png", "000000.01kimg.png"]
    assert len(list((folder / "images").glob("*.png"))) == 8
    assert not (folder / "normals").exists() and not (folder / "shapes").exists()
    page = (folder / "report.html").read_text()
    assert "<h2>Samples" in page and "Normal maps" not in page and "<h2>Shapes" not in page
    for line in read_metrics(folder):
        assert line["fid"] > 0 and not {"occupancy", "pairwise_iou", "reference_occupancy"} & line.keys()
    assert "FID " in printed


def test_predict_writes_images(run, capsys, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parents[2])
    run_dir = str(folder.relative_to(Path.cwd()))
    assert main(["predict", "--run_dir", run_dir, "--model.init_args.samples=3"]) == 0
    assert "3 images in" in capsys.readouterr().out
    images = sorted((folder / "predict" / "images").iterdir())
    assert [p.name for p in images] == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(images[0]).mode == "L"
