"""The page of ``view`` in headless Chromium."""

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
ARGUMENTS = [  # no network access except for the page; WebGL without a GPU
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
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install -y chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A browser page that records its requests in ``page.requested`` and its errors in ``page.errors``."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    page.requested, page.errors = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    yield page
    page.close()


def loaded(page, element: str, **expected) -> dict:
    """Wait until an element has loaded a request with the expected parameters; return the request."""
    conditions = "".join(
        f'[data-loaded*="\\"{name}\\":{json.dumps(value).replace(chr(34), chr(92) + chr(34))}"]'
        for name, value in expected.items()
    )
    return json.loads(
        page.wait_for_selector(f"#{element}{conditions or '[data-loaded]'}", state="attached").get_attribute(
            "data-loaded"
        )
    )


def slide(page, name: str, value: float) -> None:
    """Set a slider and send the events of a keyboard or mouse."""
    page.locator(f"#{name}").fill(str(value))
    page.locator(f"#{name}").dispatch_event("change")


def screenshot(page, name: str) -> None:
    """Save a screenshot if ``VIEW_SCREENSHOTS`` is set to a directory."""
    if folder := os.environ.get("VIEW_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def finish(page, url: str) -> None:
    """Check that there were no errors and no requests to other servers."""
    assert page.errors == [] and page.locator("#message").inner_text() == ""
    external = [
        requested for requested in page.requested if not requested.startswith((f"{url}/", f"blob:{url}/", "data:"))
    ]
    assert external == []


def test_voxel_page(page, tmp_path, environment):
    run = write_run(tmp_path / "voxels" / "001", small_iggan.iggan(), small_iggan.CONFIG)
    with viewing(run, environment) as (url, _):
        page.goto(url)
        assert loaded(page, "viewer", a=0)["mix"] == 0
        assert page.title().startswith("voxels 001") and page.locator("#thumbnails button").count() == 12
        assert not page.locator("#texture").is_visible()

        page.locator("#thumbnails button").nth(3).click()  # select a sample
        loaded(page, "viewer", a=3, mix=0)
        page.locator("input[name=end][value=b]").check()
        page.locator("#thumbnails button").nth(5).click()
        loaded(page, "viewer", b=5, mix=1)
        slide(page, "mix", 0.5)  # interpolate
        loaded(page, "viewer", a=3, b=5, mix=0.5)
        slide(page, "truncation", 0.8)
        before = page.locator("#image").screenshot()
        slide(page, "threshold", 0.45)
        loaded(page, "viewer", threshold=0.45, truncation=0.8)
        loaded(page, "image", threshold=0.45)
        assert page.locator("#image").screenshot() != before

        azimuth = loaded(page, "image")["azimuth"]  # rotate with the mouse
        box = page.locator("#viewer").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 150, middle[1], steps=5)
        page.mouse.up()
        page.wait_for_selector(f'#image:not([data-loaded*="\\"azimuth\\":{json.dumps(azimuth)},"])')
        screenshot(page, "voxels")
        page.locator("#front").click()
        assert loaded(page, "image", azimuth=0, elevation=0)

        page.locator("#renderer").select_option("absorption")
        loaded(page, "image", renderer="absorption")
        assert not page.locator("#normals").is_visible()

        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        assert download.value.suggested_filename == "voxels_001_0_3to5_0.5.glb"
        mesh = trimesh.load(tmp_path / download.value.suggested_filename, force="mesh")
        assert len(mesh.faces) and abs(mesh.bounds).max() <= 0.5 + 0.5 / 8

        saved = dict(parse_qsl(page.evaluate("location.hash.slice(1)")))  # a bookmark restores the state
        assert (saved["a"], saved["b"], saved["mix"], saved["threshold"]) == ("3", "5", "0.5", "0.45")
        page.reload()
        loaded(page, "viewer", a=3, b=5, mix=0.5)

        slide(page, "threshold", 1)
        page.locator("#empty").wait_for(state="visible")
        page.locator("#resample").click()
        assert loaded(page, "viewer", a=0, mix=0)["seed"] > 0
        finish(page, url)


def test_mesh_page(page, tmp_path, environment):
    run = write_run(tmp_path / "meshes" / "001", meshgan(), MESHGAN)
    with viewing(run, environment) as (url, _):
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 420, "height": 900})
        page.goto(url)
        loaded(page, "viewer", texture="on")
        loaded(page, "image", background="generated")
        assert (
            page.evaluate("document.documentElement.scrollWidth") <= 420
        )  # no horizontal scrolling in a narrow window
        assert page.locator("#texture").is_visible() and page.locator("#background").is_visible()
        assert not page.locator("#threshold").is_visible()
        page.locator("#untextured").check()
        loaded(page, "viewer", texture="off")
        page.locator("#renderer").select_option("opengl")
        loaded(page, "image", renderer="opengl")
        page.locator("#with-background").uncheck()
        loaded(page, "image", background="black")
        screenshot(page, "meshes")
        finish(page, url)
