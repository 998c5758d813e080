"""A run on one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.evaluation_log import read_metrics
from renderers.files import write_atomically

SHEETS = {
    "samples": "Samples",
    "normals": "Normal maps",
    "volumes": "Volumes as the discriminator sees them",
    "turns": "Seen from -90° (top) to 90°",
    "textures": "Textures",
    "backgrounds": "Backgrounds, of which samples show a part",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
img { max-width: 100%; image-rendering: pixelated } img.curve { image-rendering: auto }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
.row { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0 } figcaption { color: #555; font-size: .9em }
pre { background: #f4f4f4; padding: .8em; overflow-x: auto; font-size: .8em }
input[type=range] { width: 100% }
"""

SLIDER = """
for (const box of document.querySelectorAll('.film')) {
  const frames = box.querySelectorAll('figure'), range = box.querySelector('input');
  const show = () => frames.forEach((f, i) => f.hidden = i != range.value);
  range.oninput = show; show();
}
"""


class Report(pl.Callback):
    """Writes ``report.html`` at the end of a run: FID, grids over time, reals, shapes to download, config; all inside it."""

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        path = write_report(Path(trainer.default_root_dir))
        print(f"look at {path}")


def write_report(folder: Path) -> Path:
    """The page of the run in ``folder``, from what the other callbacks left there; returns its path."""
    title = f"{folder.parent.name} {folder.name}"
    parts = [f"<h1>unrender: {html.escape(title)}</h1>", _summary(folder)]
    curves = [folder / f"{name}.png" for name in ("fid", "kid")]
    parts += [f"<h2>{curve.stem.upper()}</h2>{_image(curve, 'curve')}" for curve in curves if curve.exists()]
    for name, heading in SHEETS.items():
        parts.append(_film(folder / name, f"{heading} over time (same latents, same views; one view a row)"))
    if (folder / "reals.png").exists():
        parts.append(f"<h2>Real pictures</h2>{_image(folder / 'reals.png')}")
    parts.append(_shapes(folder / "shapes"))
    texts = [folder / name for name in ("command.txt", "version.json", "config.yaml")]
    parts += [f"<h2>{t.name}</h2><pre>{html.escape(t.read_text())}</pre>" for t in texts if t.exists()]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>unrender: {html.escape(title)}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}<script>{SLIDER}</script></html>"
    )
    write_atomically(folder / "report.html", lambda path: path.write_text(page) and None)
    return folder / "report.html"


def _summary(folder: Path) -> str:
    lines = read_metrics(folder)
    if not lines:
        return "<p>No evaluation yet.</p>"
    keys = [key for key, value in lines[-1].items() if isinstance(value, int | float)]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
    rows = "".join("<tr>" + "".join(f"<td>{line.get(key, ''):.4g}</td>" for key in keys) + "</tr>" for line in lines)
    return f"<p>{html.escape(lines[-1]['note'])}</p><table><tr>{head}</tr>{rows}</table>"


def _film(folder: Path, heading: str) -> str:
    frames = sorted(folder.glob("*.png"))
    if not frames:
        return ""
    figures = "".join(f"<figure>{_image(f)}<figcaption>{html.escape(f.stem)}</figcaption></figure>" for f in frames)
    last = len(frames) - 1
    return (
        f"<h2>{html.escape(heading)}</h2><div class=film><input type=range min=0 max={last} value={last}"
        f" aria-label={json.dumps(heading)}>{figures}</div>"
    )


def _shapes(folder: Path) -> str:
    files = sorted(folder.glob("*.glb"))
    if not files:
        return ""
    figures = []
    for file in files:
        pictures = "".join(
            _image(p) for p in (file.with_suffix(".png"), file.with_name(f"{file.stem}_normals.png")) if p.exists()
        )
        link = f"<a download='{file.name}' href='{_data(file, 'model/gltf-binary')}'>{file.name}</a>"
        figures.append(f"<figure style='width:250px'>{pictures}<figcaption>{link}</figcaption></figure>")
    return f"<h2>Shapes</h2><div class=row>{''.join(figures)}</div>"


def _image(path: Path, kind: str = "") -> str:
    return f"<img class='{kind}' alt='{html.escape(path.stem)}' src='{_data(path, 'image/png')}'>"


def _data(path: Path, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
