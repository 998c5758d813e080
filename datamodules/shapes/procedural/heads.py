"""Procedural textured heads: like a data set of faces, but with known geometry.

A head is a surface over directions ``(theta, phi)``: theta is the angle from the crown, phi the longitude, 0 at the nose.
Geometry and texture are functions of the same directions, so that the painted eyes are next to the modelled nose. The neck
is a second surface. Both are in one mesh and one texture, with the neck's strip of the texture below the head's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from renderers import TriangleMesh
from renderers.meshes.vertex_normals import vertex_normals

# Increase when a change alters any head, so that caches of older images are not reused.
HEADS_VERSION = 1
RINGS, MERIDIANS, NECK_RINGS = 52, 96, 10
LIMIT = 0.99  # maximum radius: heads must be inside the unit ball
NECK_SHARE = 4  # ratio of the head's rows in the texture to the neck's

Color = tuple[float, float, float]
SKIN = ((0.97, 0.84, 0.76), (0.90, 0.72, 0.58), (0.76, 0.56, 0.42), (0.55, 0.37, 0.26), (0.33, 0.21, 0.15))
HAIR = ((0.07, 0.06, 0.06), (0.22, 0.13, 0.08), (0.42, 0.26, 0.14), (0.80, 0.64, 0.36), (0.62, 0.26, 0.10), (0.72,) * 3)
IRIS = ((0.20, 0.11, 0.06), (0.22, 0.38, 0.55), (0.25, 0.38, 0.22), (0.35, 0.35, 0.38))


@dataclass(frozen=True)
class Head:
    """Parameters of a head: lengths in world units, positions ``a`` (sideways) and ``b`` (up) on the unit sphere."""

    width: float  # half-axes of the skull
    height: float
    depth: float
    boxiness: float  # exponent of the profile from crown to chin; 2 is an ellipsoid
    jaw: float  # narrowing from the temples to the chin
    forehead: float  # how far the forehead recedes
    nose: float  # protrusion of the tip
    nose_width: float
    nose_tip: float  # b
    nose_bridge: float  # protrusion of the bridge between the eyes, as a fraction of the tip's
    brow: float
    sockets: float
    cheeks: float
    chin: float
    lips: float
    ears: float
    eye_position: tuple[float, float]  # a, b
    eye_size: tuple[float, float]
    mouth_height: float  # b
    mouth_size: tuple[float, float]
    smile: float
    hair: float  # thickness; 0 is bald
    hairline: float  # b at the middle of the forehead
    hair_length: float  # lowest b at the sides and the back
    parting: float  # a at which the hairline is highest
    beard: float  # opacity
    glasses: float
    neck: float  # radius
    collar: float  # y in world units
    skin: Color
    hair_color: Color
    lip_color: Color
    iris: Color
    shirt: Color
    light: tuple[float, float, float]  # direction toward the light, in the head's frame
    ambient: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Head:
        """Sample a head; a function of the generator's state."""
        u = rng.uniform

        def palette(colors: tuple[Color, ...], spread: float) -> Color:
            position = u(0, len(colors) - 1)
            low = min(int(position), len(colors) - 2)
            mixed = [
                (1 - position + low) * p + (position - low) * q
                for p, q in zip(colors[low], colors[low + 1], strict=True)
            ]
            return _color(np.array(mixed) * (1 + rng.normal(0, spread)) + rng.normal(0, spread / 5, 3))

        skin = palette(SKIN, 0.05)
        hair_color = _color(np.array(HAIR[rng.integers(len(HAIR))]) * u(0.7, 1.2))
        style = rng.choice(["bald", "short", "full", "long"], p=[0.12, 0.38, 0.25, 0.25])
        thickness = {"bald": 0.0, "short": u(0.02, 0.04), "full": u(0.05, 0.1), "long": u(0.04, 0.08)}[style]
        reach = {"bald": 1.0, "short": u(0.0, 0.15), "full": u(-0.25, 0.05), "long": u(-0.95, -0.5)}[style]
        azimuth, elevation = math.radians(u(-60, 60)), math.radians(u(10, 60))
        return cls(
            width=u(0.49, 0.58),
            height=u(0.64, 0.73),
            depth=u(0.56, 0.65),
            boxiness=u(2.1, 2.6),
            jaw=u(0.12, 0.42),
            forehead=u(0.0, 0.12),
            nose=u(0.10, 0.21),
            nose_width=u(0.11, 0.19),
            nose_tip=u(-0.32, -0.22),
            nose_bridge=u(0.1, 0.45),
            brow=u(0.0, 0.05),
            sockets=u(0.03, 0.07),
            cheeks=u(-0.01, 0.05),
            chin=u(0.0, 0.09),
            lips=u(0.01, 0.04),
            ears=u(0.04, 0.1),
            eye_position=(u(0.33, 0.42), u(0.0, 0.08)),
            eye_size=(u(0.12, 0.165), u(0.05, 0.085)),
            mouth_height=u(-0.6, -0.5),
            mouth_size=(u(0.2, 0.34), u(0.04, 0.08)),
            smile=u(-0.25, 0.8),
            hair=thickness,
            hairline=u(0.5, 0.72),
            hair_length=reach,
            parting=u(-0.4, 0.4),
            beard=u(0.4, 0.95) if rng.random() < 0.2 else 0.0,
            glasses=1.0 if rng.random() < 0.12 else 0.0,
            neck=u(0.22, 0.3),
            collar=u(-0.85, -0.68),
            skin=skin,
            hair_color=hair_color,
            lip_color=_color(0.55 * np.array(skin) + 0.45 * np.array([u(0.55, 0.85), 0.15, 0.2])),
            iris=IRIS[rng.integers(len(IRIS))],
            shirt=_color(rng.uniform(0.05, 0.95, 3)),
            light=(
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
                math.cos(elevation) * math.cos(azimuth),
            ),
            ambient=u(0.45, 0.75),
        )


def _color(rgb: np.ndarray) -> Color:
    r, g, b = (float(x) for x in np.clip(rgb, 0.02, 0.98))
    return r, g, b


def head_meshes(heads: list[Head], texture_size: int = 128) -> TriangleMesh:
    """Return the meshes of B heads as one batch: facing +z, y up, inside the unit ball.

    Lighting is baked into the texture and so rotates with the head, as in every renderer of unlit textures, such as
    MeshGAN's. Render the meshes unlit.

    Args:
        heads: the B heads.
        texture_size: rows S of the head in the texture ``(B, 3, S + S / 4, 2 S)``, a multiple of 4.
    """
    faces, uvs = _topology(texture_size)
    theta, phi = _directions(RINGS + 1, MERIDIANS + 1, corners=True)
    skulls = torch.stack([surface(head, theta, phi) for head in heads])
    necks = torch.stack([_neck(head) for head in heads])
    vertices = torch.cat([skulls.flatten(1, 2), necks.flatten(1, 2)], 1)
    vertices = vertices * (LIMIT / vertices.norm(dim=-1).amax(1)).clamp(max=1).view(-1, 1, 1)
    normals = vertex_normals(vertices, faces)
    textures = [_lit_texture(head, normal, texture_size) for head, normal in zip(heads, normals, strict=True)]
    return TriangleMesh(vertices, faces, uvs, torch.stack(textures))


def surface(head: Head, theta: Float[Tensor, "R C"], phi: Float[Tensor, "R C"]) -> Float[Tensor, "R C 3"]:
    """Return the points of the head's surface in the given directions, in the world frame."""
    b = theta.cos()
    ring = (1 - b.abs().clamp(max=1) ** head.boxiness).clamp(min=0) ** (1 / head.boxiness)
    a, front = theta.sin() * phi.sin(), _front(theta, phi)
    low, high = (-b).clamp(min=0), b.clamp(min=0)
    narrow = 1 - head.jaw * low**1.5 - 0.1 * high**2
    x = head.width * narrow * ring * phi.sin()
    y = head.height * b
    z = head.depth * ring * phi.cos() * torch.where(phi.cos() > 0, 1 - 0.25 * head.jaw * low**2, 1 - 0.35 * low)
    z = z - head.forehead * high**2 * front

    def bump(at_a: float, at_b: float, wide: float, tall: float) -> Tensor:
        return front * torch.exp(-(((a - at_a) / wide) ** 2) - ((b - at_b) / tall) ** 2)

    eye_a, eye_b = head.eye_position
    slope = ((eye_b + 0.12 - b) / (eye_b + 0.12 - head.nose_tip)).clamp(0, 1)
    profile = (head.nose_bridge * (slope > 0) * slope**0.3 + (1 - head.nose_bridge) * slope**1.2).clamp(max=1)
    under = torch.sigmoid((b - head.nose_tip + 0.06) / 0.02)
    across = head.nose_width * (0.55 + 0.45 * slope)
    z = z + head.nose * profile * under * front * torch.exp(-((a / across) ** 2))
    z = z + head.brow * bump(0, eye_b + 0.2, 0.5, 0.08)
    z = z + head.chin * bump(0, -0.86, 0.3, 0.14)
    z = z + head.lips * bump(0, head.mouth_height, head.mouth_size[0], 0.09)
    for side in (-1, 1):
        z = z - head.sockets * bump(side * eye_a, eye_b, 0.2, 0.13)
        z = z + 0.35 * head.sockets * bump(side * eye_a, eye_b, 0.1, 0.06)  # the eyeball
        z = z + head.cheeks * bump(side * 0.48, eye_b - 0.28, 0.2, 0.14)
        ear = torch.exp(-(((phi - side * 1.72) / 0.13) ** 2) - ((b + 0.03) / 0.17) ** 4)
        x = x + side * head.ears * ear
        z = z - 0.5 * head.ears * ear
    thick = 1 + head.hair * hair_cover(head, theta, phi) / head.depth
    return torch.stack([x * thick, y * thick + _center_y(head), z * thick], -1)


def hair_cover(head: Head, theta: Float[Tensor, "*n"], phi: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the density of hair in the given directions, 0 to 1."""
    if head.hair == 0:
        return torch.zeros_like(theta)
    a, b = theta.sin() * phi.sin(), theta.cos()
    back = torch.sigmoid((phi.abs() - 1.25) / 0.1)  # behind the temples
    line = (1 - back) * (head.hairline - 0.35 * (a - 0.3 * head.parting) ** 2) + back * head.hair_length
    return torch.sigmoid((b - line) / 0.03)


def paint(head: Head, theta: Float[Tensor, "R C"], phi: Float[Tensor, "R C"]) -> Float[Tensor, "3 R C"]:
    """Return the head's unlit colours in the given directions."""
    a, b, front = theta.sin() * phi.sin(), theta.cos(), _front(theta, phi)
    texel = math.pi / theta.shape[0]  # edges are as wide as a texel, to avoid aliasing
    image = torch.tensor(head.skin).view(3, 1, 1).expand(3, *theta.shape).clone()

    def blend(weight: Tensor, color: Color | list[float]) -> None:
        image.lerp_(torch.tensor(color).view(3, 1, 1).expand_as(image), (weight * front).clamp(0, 1).expand_as(image))

    def disc(at_a: float, at_b: float, wide: float, tall: float) -> Tensor:
        away = (((a - at_a) / wide) ** 2 + ((b - at_b) / tall) ** 2).clamp(min=1e-6).sqrt()
        return torch.sigmoid((1 - away) * min(wide, tall) * 3 / texel)

    eye_a, eye_b = head.eye_position
    wide, tall = head.eye_size
    dark = [0.55 * c for c in head.skin]
    brows = [0.6 * h + 0.1 * s for h, s in zip(head.hair_color, head.skin, strict=True)]
    curve = head.mouth_height + head.smile * 0.35 * (a**2 - 0.02)
    if head.beard:
        low = torch.sigmoid((head.mouth_height + 0.14 + 0.5 * a**2 - b) / 0.03)
        blend(head.beard * low * (1 - disc(0, head.mouth_height, head.mouth_size[0] * 0.9, 0.07)), head.hair_color)
    for side in (-1, 1):
        blend(0.35 * torch.exp(-(((a - side * 0.5) / 0.16) ** 2) - ((b - eye_b + 0.33) / 0.12) ** 2), head.lip_color)
        blend(0.4 * disc(side * eye_a, eye_b + 0.01, wide * 1.3, tall * 1.6), dark)
        white = disc(side * eye_a, eye_b, wide, tall)
        blend(white, [0.95, 0.94, 0.92])
        blend(white * disc(side * eye_a, eye_b, 0.075, 0.075), head.iris)
        blend(white * disc(side * eye_a, eye_b, 0.035, 0.035), [0.02, 0.02, 0.02])
        arch = eye_b + 0.17 - 0.9 * (a - side * (eye_a + 0.02)) ** 2
        blend(disc(side * eye_a, 0.0, wide * 1.6, 9.0) * torch.exp(-(((b - arch) / 0.035) ** 2)), brows)
        blend(0.8 * disc(side * 0.07, head.nose_tip - 0.075, 0.04, 0.025), dark)
        if head.glasses:
            ring = ((((a - side * eye_a) / 0.24) ** 2 + ((b - eye_b) / 0.17) ** 2).sqrt() - 1) * 0.2
            blend(torch.exp(-((ring / 0.025) ** 2)), [0.05, 0.05, 0.06])
    if head.glasses:
        blend(disc(0, eye_b + 0.04, 0.13, 0.025), [0.05, 0.05, 0.06])
    half, lip = head.mouth_size
    mouth = torch.sigmoid((1 - (a / half).abs()) * half * 3 / texel)
    blend(
        mouth * torch.exp(-(((b - curve) / (lip * (1.05 - (a / half).clamp(-1, 1) ** 2).sqrt())) ** 4)), head.lip_color
    )
    blend(mouth * torch.exp(-(((b - curve) / 0.014) ** 2)), [0.5 * c for c in head.lip_color])
    strands = 1 + 0.12 * torch.sin(40 * phi + 9 * b)
    hair = hair_cover(head, theta, phi)
    return (image * (1 - hair) + hair * strands * torch.tensor(head.hair_color).view(3, 1, 1)).clamp(0, 1)


def _lit_texture(head: Head, normals: Float[Tensor, "V 3"], size: int) -> Float[Tensor, "3 h w"]:
    theta, phi = _directions(size, 2 * size, corners=False)
    split = (RINGS + 1) * (MERIDIANS + 1)
    neck_rows = size // NECK_SHARE
    y = torch.linspace(*_neck_span(), neck_rows).view(1, neck_rows, 1)
    cloth = torch.sigmoid((head.collar - y) / 0.01).expand(3, neck_rows, 2 * size)
    shirt, skin = (torch.tensor(c).view(3, 1, 1) for c in (head.shirt, head.skin))
    parts = []
    for colors, normal, rings in (
        (paint(head, theta, phi), normals[:split], RINGS + 1),
        (cloth * shirt + (1 - cloth) * 0.85 * skin, normals[split:], NECK_RINGS + 1),  # darker under the chin
    ):
        grid = normal.view(1, rings, MERIDIANS + 1, 3).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, colors.shape[1:], mode="bilinear", align_corners=True)[0]
        lambert = torch.einsum("crk,c->rk", grid, torch.tensor(head.light)).clamp(min=0)
        parts.append(colors * (head.ambient + (1.1 - head.ambient) * lambert))
    return torch.cat(parts, 1).clamp(0, 1)


def _neck_span() -> tuple[float, float]:
    return -0.15, -0.94


def _neck(head: Head) -> Float[Tensor, "R C 3"]:
    """Return the points of the neck, from inside the head downward, a little wider at the bottom."""
    down = torch.linspace(0, 1, NECK_RINGS + 1)[:, None]
    phi = torch.linspace(-math.pi, math.pi, MERIDIANS + 1)[None]
    top, bottom = _neck_span()
    flare = 0.12 * torch.sigmoid((down - 0.86) / 0.05)
    radius = head.neck + flare
    y = (top + (bottom - top) * down).expand(-1, MERIDIANS + 1)
    return torch.stack([radius * phi.sin(), y, 0.85 * radius * phi.cos() - 0.08], -1)


def _center_y(head: Head) -> float:
    """Return y of the head's centre, chosen so that the crown is at the same height for all heads."""
    return 0.93 - head.height - head.hair


def _front(theta: Tensor, phi: Tensor) -> Tensor:
    """Return 1 on the face and 0 at the back, with a smooth transition; a and b alone do not separate front and back."""
    return torch.sigmoid((theta.sin() * phi.cos() - 0.15) / 0.05)


def _directions(rows: int, columns: int, corners: bool) -> tuple[Float[Tensor, "R C"], Float[Tensor, "R C"]]:
    """Return theta and phi on a grid over the sphere, sampled at cell corners (``corners``) or at cell centres."""

    def axis(count: int) -> Tensor:
        return torch.linspace(0, 1, count) if corners else (torch.arange(count) + 0.5) / count

    v, u = torch.meshgrid(axis(rows), axis(columns), indexing="ij")
    return v * math.pi, (2 * u - 1) * math.pi


@lru_cache(maxsize=4)
def _topology(size: int) -> tuple[Int[Tensor, "F 3"], Float[Tensor, "V 2"]]:
    """Return the faces and UVs of head and neck, for a texture with ``size`` rows for the head."""
    faces, uvs, start = [], [], 0
    neck_rows = size // NECK_SHARE
    for rings, first, rows in ((RINGS, 0, size), (NECK_RINGS, size, neck_rows)):
        corner = start + (torch.arange(rings)[:, None] * (MERIDIANS + 1) + torch.arange(MERIDIANS)).reshape(-1)
        below, across = corner + MERIDIANS + 1, corner + MERIDIANS + 2
        faces += [torch.stack([corner, below, across], -1), torch.stack([corner, across, corner + 1], -1)]
        v, u = torch.meshgrid(torch.linspace(0, 1, rings + 1), torch.linspace(0, 1, MERIDIANS + 1), indexing="ij")
        v = (first + 0.5 + v * (rows - 1)) / (
            size + neck_rows
        )  # half a texel inside each strip, so that they do not mix
        uvs.append(torch.stack([u, v], -1).view(-1, 2))
        start += (rings + 1) * (MERIDIANS + 1)
    return torch.cat(faces), torch.cat(uvs)
