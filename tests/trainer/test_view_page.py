"""The page of ``view`` in a headless Chromium, as somebody uses it."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import small_iggan
import trimesh
from view_run import MESHGAN, meshgan, viewing, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [  # nothing but the page may use the network; WebGL without a GPU
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt-get install -y chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that may ask its own server alone; what it asked and complained of is in ``page.asked``, ``page.errors``."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    yield page
    page.close()


def shown(page, part: str, **expected) -> dict:
    """Wait until the part shows what is expected; returns the request that it shows."""
    words = "".join(
        f'[data-shown*="\\"{name}\\":{json.dumps(value).replace(chr(34), chr(92) + chr(34))}"]'
        for name, value in expected.items()
    )
    return json.loads(
        page.wait_for_selector(f"#{part}{words or '[data-shown]'}", state="attached").get_attribute("data-shown")
    )


def slide(page, name: str, value: float) -> None:
    """Move a slider as the keyboard or the mouse does, with the events of both ends."""
    page.locator(f"#{name}").fill(str(value))
    page.locator(f"#{name}").dispatch_event("change")


def screenshot(page, name: str) -> None:
    """Kept where ``VIEW_SCREENSHOTS`` names a folder."""
    if folder := os.environ.get("VIEW_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def finish(page, url: str) -> None:
    """Nothing went wrong, and nobody else was asked."""
    assert page.errors == [] and page.locator("#said").inner_text() == ""
    elsewhere = [address for address in page.asked if not address.startswith((f"{url}/", f"blob:{url}/", "data:"))]
    assert elsewhere == []


def test_voxels_by_hand(page, tmp_path, environment):
    run = write_run(tmp_path / "voxels" / "001", small_iggan.iggan(), small_iggan.CONFIG)
    with viewing(run, environment) as (url, _):
        page.goto(url)
        assert shown(page, "viewer", a=0)["mix"] == 0
        assert page.title().startswith("voxels 001") and page.locator("#strip button").count() == 12
        assert not page.locator("#texture").is_visible()

        page.locator("#strip button").nth(3).click()  # a sample
        shown(page, "viewer", a=3, mix=0)
        page.locator("input[name=end][value=b]").check()
        page.locator("#strip button").nth(5).click()
        shown(page, "viewer", b=5, mix=1)
        slide(page, "mix", 0.5)  # between two
        shown(page, "viewer", a=3, b=5, mix=0.5)
        slide(page, "truncation", 0.8)
        before = page.locator("#image").screenshot()
        slide(page, "threshold", 0.45)
        shown(page, "viewer", threshold=0.45, truncation=0.8)
        shown(page, "image", threshold=0.45)
        assert page.locator("#image").screenshot() != before

        turned = shown(page, "image")["azimuth"]  # turn by the mouse
        box = page.locator("#viewer").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 150, middle[1], steps=5)
        page.mouse.up()
        page.wait_for_selector(f'#image:not([data-shown*="\\"azimuth\\":{json.dumps(turned)},"])')
        screenshot(page, "voxels")
        page.locator("#front").click()
        assert shown(page, "image", azimuth=0, elevation=0)

        page.locator("#renderer").select_option("absorption")
        shown(page, "image", renderer="absorption")
        assert not page.locator("#normals").is_visible()

        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        assert download.value.suggested_filename == "voxels_001_0_3to5_0.5.glb"
        mesh = trimesh.load(tmp_path / download.value.suggested_filename, force="mesh")
        assert len(mesh.faces) and abs(mesh.bounds).max() <= 0.5 + 0.5 / 8

        chosen = dict(parse_qsl(page.evaluate("location.hash.slice(1)")))  # a bookmark brings it back
        assert (chosen["a"], chosen["b"], chosen["mix"], chosen["threshold"]) == ("3", "5", "0.5", "0.45")
        page.reload()
        shown(page, "viewer", a=3, b=5, mix=0.5)

        slide(page, "threshold", 1)
        page.locator("#nothing").wait_for(state="visible")
        page.locator("#draw").click()
        assert shown(page, "viewer", a=0, mix=0)["seed"] > 0
        finish(page, url)


def test_meshes_by_hand(page, tmp_path, environment):
    run = write_run(tmp_path / "meshes" / "001", meshgan(), MESHGAN)
    with viewing(run, environment) as (url, _):
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 420, "height": 900})
        page.goto(url)
        shown(page, "viewer", surface="whole")
        shown(page, "image", behind="background")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420  # nothing beside a narrow window
        assert page.locator("#texture").is_visible() and page.locator("#background").is_visible()
        assert not page.locator("#threshold").is_visible()
        page.locator("#plain").check()
        shown(page, "viewer", surface="plain")
        page.locator("#renderer").select_option("opengl")
        shown(page, "image", renderer="opengl")
        page.locator("#behind").uncheck()
        shown(page, "image", behind="black")
        screenshot(page, "meshes")
        finish(page, url)
