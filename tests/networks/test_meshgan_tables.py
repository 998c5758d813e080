"""The tables of docs/meshgan.md match the networks."""

import re
from pathlib import Path

import torch

from networks import StyleGANDiscriminator, StyleGANGenerator
from renderers import grid_mesh

PAGE = (Path(__file__).parents[2] / "docs/meshgan.md").read_text()
NONE = "–"


def count(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def generator_column(network: StyleGANGenerator) -> list[str]:
    """Weights of the mapping network, of each resolution's layers, of the output layers, and in total."""
    synthesis = network.synthesis
    blocks = [count(*synthesis.layers[2 * i : 2 * i + 2]) for i in range(synthesis.levels)]
    blocks[0] += synthesis.constant.numel()
    blocks = [f"{n:,}" for n in blocks] + [NONE] * (7 - synthesis.levels)
    return [f"{count(network.mapping):,}", *blocks, f"{count(synthesis.to_image):,}", f"{count(network):,}"]


def shapes(network: StyleGANGenerator) -> list[str]:
    widths = [layer.bias.numel() for layer in network.synthesis.layers[::2]]
    return ["512", *(f"{width} × {4 << i}²" for i, width in enumerate(widths)), NONE, NONE]


def rows_after(heading: str) -> list[list[str]]:
    """The cells of the table with this heading, without its first two lines."""
    table = re.search(rf"^\| {heading}.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_generator_table():
    with torch.device("meta"):
        networks = [StyleGANGenerator(128), StyleGANGenerator(256, 15), StyleGANGenerator(256, 3)]
    expected = [shapes(networks[1]), *map(generator_column, networks)]
    assert [row[1:] for row in rows_after("generator")] == [list(row) for row in zip(*expected, strict=True)]


def test_discriminator_table():
    with torch.device("meta"):
        d = StyleGANDiscriminator(128)
    blocks = [(d.first[i], d.second[i]) for i in reversed(range(5))] + [(d.last, d.hidden, d.logit)]
    widths = [128, 256, 512, 512, 512, 512]
    expected = [["3 × 128²", f"{count(d.from_image):,}"]]
    expected += [
        [f"{w} × {128 >> i}²", f"{count(*block):,}"] for i, (w, block) in enumerate(zip(widths, blocks, strict=True))
    ]
    assert [row[1:] for row in rows_after("discriminator")] == [*expected, [NONE, f"{count(d):,}"]]
    assert [d.first[i].weight.shape[0] for i in range(5)] == widths[:5][::-1]


def test_grid_mesh_size_in_the_docs():
    faces, _ = grid_mesh(128)
    assert f"{len(faces):,} triangles on {len(faces.unique()):,} of" in PAGE
