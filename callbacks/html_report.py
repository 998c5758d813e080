"""A run on one page that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.html_pages import data_url, film, image, table, write_page
from callbacks.metrics_log import read_metrics

SHEETS = {
    "samples": "Samples",
    "normals": "Normal maps",
    "volumes": "Volumes as the discriminator sees them",
    "turns": "Seen from -90° (top) to 90°",
    "textures": "Textures",
    "backgrounds": "Backgrounds, of which samples show a part",
}


MEANINGS = {
    "kimg": "is thousand real images seen",
    "fid": "is the distance between generated and real images: less is better",
    "kid": "is the distance between generated and real images, for small sets: less is better",
    "kid_std": "is its scatter over subsets",
    "occupancy": "is the share of the cube that samples fill",
    "reference_occupancy": "is that of the data",
    "pairwise_iou": "is how far samples overlap with each other: 1 if all are alike",
}


EMPTY = (
    "The last samples are empty, and their images black: no voxel is above the threshold. Early in a training that may "
    "pass; export has --threshold, and view a slider, to see what lies below it."
)


class Report(pl.Callback):
    """Writes ``report.html`` after each evaluation and at the end of a run: FID, grids over time, reals, shapes to
    download, config; all inside it.
    """

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run and trainer.state.fn == "fit":
            write_report(Path(trainer.default_root_dir))

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
    parts += [f"<h2>{curve.stem.upper()}</h2>{image(curve, 'curve')}" for curve in curves if curve.exists()]
    films = [film(folder / name, heading) for name, heading in SHEETS.items()]
    if any(films):
        parts.append(
            "<p>The sliders go from the first evaluation to the last: the same latents, one viewpoint a row.</p>"
        )
    parts += films
    if (folder / "reals.png").exists():
        parts.append(f"<h2>Real images</h2>{image(folder / 'reals.png')}")
    parts.append(_shapes(folder / "shapes"))
    texts = [folder / name for name in ("command.txt", "version.json", "config.yaml")]
    parts += [f"<h2>{t.name}</h2><pre>{html.escape(t.read_text())}</pre>" for t in texts if t.exists()]
    write_page(folder / "report.html", f"unrender: {title}", parts)
    return folder / "report.html"


def _summary(folder: Path) -> str:
    lines = read_metrics(folder)
    if not lines:
        return "<p>No evaluation yet.</p>"
    keys = [key for key, value in lines[-1].items() if isinstance(value, int | float)]
    rows = [[f"{line[key]:.4g}" if key in line else "" for key in keys] for line in lines]
    words = " ".join(f"<b>{key}</b> {meaning}." for key, meaning in MEANINGS.items() if key in keys)
    empty = f"<p><b>{EMPTY}</b></p>" if lines[-1].get("occupancy") == 0 else ""
    return f"<p>{html.escape(lines[-1]['note'])}</p>{empty}{table(keys, rows)}<p>{words}</p>"


def _shapes(folder: Path) -> str:
    files = sorted(folder.glob("*.glb"))
    if not files:
        return ""
    figures = []
    for file in files:
        images = "".join(
            image(p) for p in (file.with_suffix(".png"), file.with_name(f"{file.stem}_normals.png")) if p.exists()
        )
        link = f"<a download='{file.name}' href='{data_url(file, 'model/gltf-binary')}'>{file.name}</a>"
        figures.append(f"<figure style='width:250px'>{images}<figcaption>{link}</figcaption></figure>")
    return f"<h2>Shapes</h2><div class=row>{''.join(figures)}</div>"
