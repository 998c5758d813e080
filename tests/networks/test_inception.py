from pathlib import Path

import numpy as np
import pytest
import torch

from networks import InceptionV3
from networks.inception import Mixed, resize_tf1


def published_state() -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of the published weights, and values from a formula."""

    def numbers(*shape: int) -> torch.Tensor:
        count = int(np.prod(shape))
        return torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + len(state)).view(shape)

    state: dict[str, torch.Tensor] = {}
    for line in (Path(__file__).parent / "inception_shapes.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, *shape = line.split()
        out, before, height, width = map(int, shape)
        fan_in = before * height * width
        state[f"{name}.conv.weight"] = numbers(out, before, height, width) * 2 / fan_in**0.5
        for key, scale, shift in (("weight", 0.2, 1), ("bias", 0.2, 0.1), ("running_mean", 0.1, 0)):
            state[f"{name}.bn.{key}"] = shift + scale * numbers(out)
        state[f"{name}.bn.running_var"] = 1 + 0.5 * numbers(out)
    state["fc.weight"], state["fc.bias"] = numbers(1008, 2048) / 45, numbers(1008)
    return state


def published_network() -> InceptionV3:
    network = InceptionV3([str(i) for i in range(1008)], channels=3)
    network.load_state_dict(published_state())
    return network.double().eval()


def test_state_dict_has_exactly_the_published_names_and_shapes():
    state = published_state()
    ours = {k: v.shape for k, v in InceptionV3(["a"] * 1008, channels=3).state_dict().items() if "num_batches" not in k}
    assert ours == {k: v.shape for k, v in state.items()}
    # InceptionV3 has 23,834,568 weights for 1000 classes, without its auxiliary head.
    assert sum(v.numel() for k, v in state.items() if "running" not in k) == 23_834_568 + 8 * 2049


@torch.no_grad()
def test_features_match_the_tensorflow_port():
    """Expected values: torch-fidelity 0.3.0 in float64, with the same weights and image."""
    bytes_ = (torch.arange(3 * 40 * 50, dtype=torch.float64) * 37 % 256).view(1, 3, 40, 50)
    features = published_network().features(bytes_ / 255)
    assert features.shape == (1, 2048)
    expected = [4.13189775, 8.26536889, 0.22334687, 0.02165236, 0.00063228, 0.00068184, 0.00192277, 0.08784196]
    assert features[0, ::256].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("size", "side"), [(75, 3), (128, 6), (299, 17)])
def test_spatial_features_are_7_channels_of_mixed_6_conv(size, side):
    network = InceptionV3(["a", "b"], 1, size).eval()
    outputs = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda *args: outputs.append(args[2]))
    image = torch.rand(2, 1, 50, 50)
    pooled, spatial = network.pooled_and_spatial(image)
    assert outputs[0].shape == (2, 192, side, side)
    assert torch.equal(spatial, outputs[0][:, :7].flatten(1))
    assert spatial.shape[1] == network.num_spatial_features == 7 * side**2
    assert torch.equal(pooled, network.features(image))


@torch.no_grad()
def test_grey_is_repeated_and_colours_are_averaged():
    three, one = InceptionV3(["a", "b"], 3, 75).eval(), InceptionV3(["a", "b"], 1, 75).eval()
    grey = torch.rand(1, 1, 75, 75)
    assert torch.equal(three(grey), three(grey.repeat(1, 3, 1, 1)))
    colour = torch.rand(1, 3, 75, 75)
    assert torch.allclose(one(colour), one(colour.mean(1, keepdim=True)))
    assert one(grey).shape == (1, 2)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooling_excludes_padding(pool):
    block = Mixed(1, {"branch1x1": [(1, 1)]}, pool, 1).eval()
    block.branch_pool.conv.weight.data.fill_(1)
    out = block(torch.ones(1, 1, 4, 4))[0, 1] * (1 + 1e-3) ** 0.5
    assert torch.allclose(out, torch.ones(4, 4))


def test_blocks_have_the_published_pooling():
    network = InceptionV3(["a", "b"], image_size=75)
    pools = {name: ("halves" if m.halves else m.pool) for name, m in network.named_children() if isinstance(m, Mixed)}
    assert [pools[f"Mixed_{name}"] for name in ("6a", "7a", "7c")] == ["halves", "halves", "max"]
    assert all(pools[f"Mixed_{name}"] == "mean" for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"))


@pytest.mark.parametrize(("before", "after"), [(7, 13), (13, 7), (5, 5), (1, 4), (4, 8)])
def test_resize_matches_tensorflow(before, after):
    image = torch.rand(2, 3, before, before + 1, dtype=torch.float64)
    out = resize_tf1(image, after)
    for i in range(after):
        for j in range(after):
            y, x = i * before / after, j * (before + 1) / after
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, before - 1), min(x0 + 1, before)
            top = image[..., y0, x0] + (image[..., y0, x1] - image[..., y0, x0]) * (x - x0)
            bottom = image[..., y1, x0] + (image[..., y1, x1] - image[..., y1, x0]) * (x - x0)
            assert torch.allclose(out[..., i, j], top + (bottom - top) * (y - y0), atol=1e-12)


def test_rejects_too_small_images():
    with pytest.raises(ValueError, match="image_size at least 75"):
        InceptionV3(["a"], image_size=64)


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    network = InceptionV3(["dark", "bright"], image_size=75)
    images = torch.cat([torch.rand(4, 1, 75, 75) * 0.3, 0.7 + torch.rand(4, 1, 75, 75) * 0.3])
    labels = torch.tensor([0] * 4 + [1] * 4)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
