import copy

import pytest
import pytorch_lightning as pl
import torch
from small_iggan import VIEWS, StopAt, grids, iggan, proxy, proxy_module, renders, trainer

from lightning_modules.base import frozen, seeded_generator
from lightning_modules.losses import image_loss, output_matching_loss
from lightning_modules.neural_renderer import load_proxy
from renderers import Camera, InputError, OpenGLRenderer, VoxelGrid


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Recorder(pl.Callback):
    """Records the logged values and the weights after each step."""

    def __init__(self):
        self.logged, self.weights = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        self.weights.append(weights(module))


def test_generator_gradient_passes_through_frozen_proxy():
    module = iggan()
    before = weights(module.neural_renderer), weights(module.discriminator)
    grid = VoxelGrid(module.generator(torch.randn(3, 8)))
    rotated = module.neural_renderer.rotate(grid, VIEWS.sample(3))
    with frozen(module.discriminator, module.neural_renderer):
        logits = module.discriminator(module.neural_renderer.network(rotated))
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.generator.parameters())
    assert all(p.grad is None for p in module.neural_renderer.parameters())
    assert all(p.grad is None for p in module.discriminator.parameters())
    assert all(p.requires_grad for p in module.discriminator.parameters())
    assert equal(before[0], weights(module.neural_renderer)) and equal(before[1], weights(module.discriminator))


def test_output_matching_trains_only_the_proxy():
    module = iggan()
    grid = VoxelGrid(module.generator(torch.randn(3, 8)))
    rotated = module.neural_renderer.rotate(grid, VIEWS.sample(3))
    rendered = module.neural_renderer.network(rotated.detach())
    with frozen(module.discriminator):
        a, b = module.discriminator(torch.cat([rendered, torch.rand_like(rendered)])).chunk(2)
    output_matching_loss(a, b).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.neural_renderer.parameters())
    assert all(p.grad is None for p in module.generator.parameters())
    assert all(p.grad is None for p in module.discriminator.parameters())


def test_mean_of_thresholded_grids_is_the_occupancy():
    """With thresholds t ~ U[0, 1], E[x_d] = x_c, for each voxel and for the silhouette of one layer of voxels."""
    occupancy = torch.zeros(1, 1, 8, 8, 8)
    occupancy[0, 0, 4] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    count = 2000
    t = torch.rand(count, generator=torch.Generator().manual_seed(1))
    solids = VoxelGrid(occupancy.expand(count, -1, -1, -1, -1)).binarize(t)
    assert torch.allclose(solids.occupancy.mean(0, keepdim=True), occupancy, atol=0.05)
    assert set(solids.occupancy.unique().tolist()) == {0.0, 1.0}

    ramp = torch.zeros(64, 1, 8, 8, 8)
    ramp[:, 0, 2:6, 2:6, 2:6] = 0.3
    solids = VoxelGrid(ramp).binarize((torch.arange(64) + 0.5) / 64)
    alpha = OpenGLRenderer(16)(solids, Camera.orbit(torch.zeros(64), 0.0)).alpha
    assert alpha[:, 0, 8, 8].mean().item() == pytest.approx(0.3, abs=0.02)


def test_training_step_matches_reference(tmp_path):
    """Losses and all weights after one step equal those of the same three updates written out."""
    module, recorder = iggan(), Recorder()
    reference = copy.deepcopy(module)
    run = trainer(tmp_path, callbacks=[recorder])
    run.fit(module, renders(steps=1))

    real = next(iter(renders(steps=1).train_dataloader()))[0].float() / 255
    z = torch.randn(4, 8, generator=seeded_generator(0, 0, "latents"))
    t = torch.rand(4, generator=seeded_generator(0, 0, "thresholds"))
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    g, d, r = reference.generator, reference.discriminator, reference.neural_renderer
    adam = {"betas": (0.5, 0.999)}
    g_step = torch.optim.Adam(g.parameters(), lr=2e-4, **adam)
    d_step = torch.optim.Adam(d.parameters(), lr=2e-4, **adam)
    r_step = torch.optim.Adam(r.parameters(), lr=2e-5, **adam)
    softplus = torch.nn.functional.softplus

    x = g(z)
    y_gl = reference.renderer(VoxelGrid((x > t.view(-1, 1, 1, 1, 1)).float()), views).image
    logits = d(torch.cat([real, y_gl]))
    d_loss = softplus(-logits[:4]).mean() + softplus(logits[4:]).mean()
    d_loss.backward()
    d_step.step()
    d.eval()
    y_nn = r(VoxelGrid(x), views).image
    g_loss = softplus(-d(y_nn)).mean()
    for p, gradient in zip(g.parameters(), torch.autograd.grad(g_loss, list(g.parameters())), strict=True):
        p.grad = gradient
    g_step.step()
    y_nn = r(VoxelGrid(x.detach()), views).image
    log_d = torch.nn.functional.logsigmoid
    r_loss = (y_nn - y_gl).square().sum() / 4 + 100 * (log_d(d(y_gl)) - log_d(d(y_nn))).square().mean()
    for p, gradient in zip(r.parameters(), torch.autograd.grad(r_loss, list(r.parameters())), strict=True):
        p.grad = gradient
    r_step.step()

    logged = recorder.logged[0]
    assert logged["d"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert logged["g"] == pytest.approx(g_loss.item(), rel=1e-5)
    assert logged["r"] == pytest.approx(r_loss.item(), rel=1e-4)
    for ours, theirs in ((module.generator, g), (module.discriminator, d), (module.neural_renderer, r)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6), name


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_dom_weight_is_lambda(tmp_path, weight):
    recorder = Recorder()
    trainer(tmp_path, callbacks=[recorder]).fit(iggan(dom_weight=weight), renders(steps=1))
    twin = iggan(dom_weight=weight)
    z = torch.randn(4, 8, generator=seeded_generator(0, 0, "latents"))
    t = torch.rand(4, generator=seeded_generator(0, 0, "thresholds"))
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    grid = VoxelGrid(twin.generator(z))
    rendered = twin.neural_renderer(grid, views).image
    only_images = image_loss(rendered, twin.renderer(grid.binarize(t), views).image).item()
    if weight:
        assert recorder.logged[0]["r"] > only_images
    else:
        assert recorder.logged[0]["r"] == pytest.approx(only_images, rel=1e-4)


def test_only_a_retrained_proxy_changes(tmp_path):
    for mode in ("fixed", "retrained"):
        module = iggan(proxy=mode, neural_renderer=proxy().requires_grad_(mode == "retrained"))
        before = weights(module.neural_renderer)
        trainer(tmp_path).fit(module, renders(steps=2))
        assert equal(before, weights(module.neural_renderer)) == (mode == "fixed")


def test_discriminator_can_train_on_proxy_images(tmp_path):
    first, second = Recorder(), Recorder()
    trainer(tmp_path, callbacks=[first]).fit(iggan(), renders(steps=1))
    trainer(tmp_path, callbacks=[second]).fit(iggan(discriminator_sees="neural"), renders(steps=1))
    assert first.logged[0]["d"] != second.logged[0]["d"]
    # The proxy's images are the same, because D is only updated after they are rendered.
    assert first.logged[0]["proxy_error"] == second.logged[0]["proxy_error"]


def test_module_counts_steps_and_images(tmp_path):
    module = iggan()
    run = trainer(tmp_path)
    run.fit(module, renders(steps=5))
    assert (module.step, module.images_seen) == (5, 20)
    assert run.global_step == 15  # Lightning counts optimizer steps


@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_run_equals_uninterrupted_run(tmp_path, stop):
    whole = Recorder()
    trainer(tmp_path, callbacks=[whole]).fit(iggan(), renders(steps=5))

    trainer(tmp_path, callbacks=[StopAt(stop, tmp_path / "stop.ckpt")], min_steps=0).fit(iggan(), renders(steps=5))
    rest, resumed = Recorder(), iggan()
    torch.manual_seed(123)  # training must not depend on the global generator
    run = trainer(tmp_path, callbacks=[rest])
    run.fit(resumed, renders(steps=5), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert len(rest.weights) == 5 - stop
    assert resumed.step == 5
    assert equal(whole.weights[-1], rest.weights[-1])
    assert [x["d"] for x in whole.logged[stop:]] == [x["d"] for x in rest.logged]


def test_checkpoint_has_no_extractor_and_loads_weights_only(tmp_path):
    module = iggan()
    run = trainer(tmp_path)
    run.fit(module, renders(steps=1))
    run.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert not [k for k in state["state_dict"] if "fid" in k or "extractor" in k]
    assert {k.split(".")[0] for k in state["state_dict"]} == {
        "generator",
        "generator_ema",
        "discriminator",
        "neural_renderer",
    }


def test_ema_has_its_half_life():
    module = iggan(ema_half_life_kimg=0.1)
    module.images_seen = 10**6
    for p in module.generator_ema.parameters():
        p.data.zero_()
    for p in module.generator.parameters():
        p.data.fill_(1.0)
    for _ in range(10):
        module.update_ema(10)  # 100 images: one half-life
    for p in module.generator_ema.parameters():
        assert torch.allclose(p, torch.full_like(p, 0.5), atol=1e-5)


def test_ema_batch_norm_statistics_match_its_weights():
    """Evaluation mode gives the same mean as training mode on a large batch, whatever the running statistics were."""
    module = iggan()
    for norm in module.generator_ema.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.running_mean.fill_(5.0)
    module.measure_batch_norm()
    z = module.latents(512, "test")
    evaluated = module.shapes(z).occupancy
    twin = copy.deepcopy(module.generator_ema).train()
    with torch.no_grad():
        assert torch.allclose(evaluated.mean(), twin(z).mean(), atol=2e-3)
    assert not any(m.training for m in module.generator_ema.modules())
    again = weights(module.generator_ema)
    module.measure_batch_norm()
    assert equal(again, weights(module.generator_ema))


def test_evaluation_is_repeatable(tmp_path):
    module, data = iggan(), renders(steps=1)
    run = trainer(tmp_path, limit_val_batches=1.0)
    first = run.validate(module, data, verbose=False)[0]
    again = run.validate(module, data, verbose=False)[0]
    assert first == again
    assert first["fid"] > 0 and 0 <= first["pairwise_iou"] <= 1
    assert module.evaluation_note == (
        "extractor renders_small, 8 generated against 8 real images, 8 shapes against as many held-out ones"
    )
    # Another module loads the cached statistics of the real images and gets the same result.
    other = iggan()
    assert trainer(tmp_path, limit_val_batches=1.0).validate(other, data, verbose=False)[0]["fid"] == first["fid"]
    assert other.evaluation_note == module.evaluation_note


def test_samples_do_not_depend_on_their_number(tmp_path):
    run = trainer(tmp_path)
    one = run.predict(iggan(samples=2, sample_seed=5), renders(), return_predictions=True)
    many = run.predict(iggan(samples=20, sample_seed=5), renders(), return_predictions=True)
    assert torch.allclose(one[0]["occupancy"], many[0]["occupancy"][:2], atol=1e-6)


def test_pretrained_proxy_improves_and_loads_into_iggan(tmp_path):
    module, recorder = proxy_module(), Recorder()
    run = trainer(tmp_path, callbacks=[recorder], limit_val_batches=1.0)
    run.fit(module, grids(steps=80))
    run.save_checkpoint(tmp_path / "proxy.ckpt")
    assert module.error < 0.8 < recorder.logged[0]["relative_error"]
    gan = iggan(proxy_checkpoint=str(tmp_path / "proxy.ckpt"), proxy="fixed")
    trainer(tmp_path).fit(gan, renders(steps=1))
    assert equal(weights(module.neural_renderer), weights(gan.neural_renderer))


def test_resumed_run_does_not_read_the_proxy_checkpoint(tmp_path):
    trainer(tmp_path, callbacks=[StopAt(1, tmp_path / "stop.ckpt")], min_steps=0).fit(iggan(), renders(steps=2))
    module = iggan(proxy_checkpoint="removed.ckpt")
    trainer(tmp_path).fit(module, renders(steps=2), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert module.step == 2
    with pytest.raises(InputError, match=r"removed\.ckpt does not exist"):
        trainer(tmp_path).fit(iggan(proxy_checkpoint="removed.ckpt"), renders(steps=2))


def test_unusable_proxy_checkpoints_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.ckpt does not exist; train one with"):
        load_proxy(proxy(), tmp_path / "nowhere.ckpt")
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(
        InputError, match=r"junk.ckpt cannot be loaded: .* must be a checkpoint of NeuralRendererModule"
    ):
        load_proxy(proxy(), tmp_path / "junk.ckpt")
    state = {f"neural_renderer.{k}": v for k, v in proxy().state_dict().items()}
    torch.save({"state_dict": state, "relative_error": 0.99}, tmp_path / "black.ckpt")
    with pytest.raises(InputError, match="no better than an all-black image"):
        load_proxy(proxy(), tmp_path / "black.ckpt")
    state = {k: v[..., :1] if v.dim() > 1 else v for k, v in state.items()}
    torch.save({"state_dict": state, "relative_error": 0.2}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="has a different configuration"):
        load_proxy(proxy(), tmp_path / "other.ckpt")
