"""``report.html``: a run on one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.evaluations import is_fit_evaluation
from callbacks.html_pages import grids, write_page
from callbacks.metrics_log import DISTANCES, comparable_lines, read_metrics
from callbacks.monitor import Monitor, format_metric, monitor_of

GRIDS = {
    "samples": "Samples",
    "normals": "Normal maps",
    "volumes": "Volumes as the discriminator sees them",
    "turns": "Views from -90° (top) to 90°",
    "textures": "Textures",
    "backgrounds": "Backgrounds, of which samples show a crop",
}
MEANINGS = {
    "kimg": "is thousand real images seen",
    "fid": "is the distance between generated and real images: lower is better",
    "sfid": "is FID of features on a coarse grid, which sees where things are: lower is better",
    "precision": "is the fraction of generated images that look like real ones: higher is better",
    "recall": "is the fraction of real images that look like generated ones: higher is better",
    "density": "is how many real images a generated one is near to: about 1 if it is like the data, higher is better",
    "image_coverage": "is the fraction of real images with a generated one in their neighbourhood: higher is better",
    "kid": "is the distance between generated and real images, for small sets: lower is better",
    "kid_std": "is its standard deviation over subsets",
    "occupancy": "is the fraction of the cube that samples fill",
    "reference_occupancy": "is that of the data",
    "pairwise_iou": "is how much samples overlap with each other: 1 if all are alike",
    "coverage": "is the fraction of held-out shapes that are nearest to a sample: higher is better",
    "mmd": "is the mean Chamfer distance of held-out shapes to the nearest sample: lower is better",
    "one_nn_accuracy": "tells samples from held-out shapes by the nearest neighbour: 0.5 is best, 1 is worst",
    "largest_piece": "is the share of a sample's voxels in its largest connected part: 1 is one solid",
    "nearest_iou": "is the IoU of samples with the nearest training shape",
    "depth_correlation": "is the correlation of the samples' depth with the mean head's: higher is better",
    "depth_correlation_nearest": "is that with each sample's nearest head",
    "depth_scale": "is the factor from the samples' relief to the mean head's: 1 is correct, negative is inverted",
    "normal_error": "is the mean angle to the mean head's normals, in degrees: lower is better",
    "normal_error_flat": "is that of a flat surface",
    "hollow_rate": "is the fraction of samples with inverted depth: lower is better",
    "silhouette_iou": "is the IoU of the silhouettes with the mean head's: higher is better",
    "silhouette_iou_nearest": "is that with each sample's nearest head",
    "d_train": "is the discriminator's mean logit of training images",
    "d_held_out": "is that of held-out images",
    "d_gap": "is their difference in standard deviations: large if the discriminator memorizes training images",
}
TEMPLATE = """\
{% extends "page" %}
{% from "macros" import image, slider, table %}
{% block body %}
{% if rows %}
<p>{{ note }}</p>
{% if others %}<p>Evaluations measured differently, which only metrics.jsonl holds: {{ others }}.</p>{% endif %}
{% if best %}<p><b>{{ best }}</b></p>{% endif %}
{% if empty %}
<p><b>The last samples are empty and their images black: no voxel is above the threshold. Early in training this may be
temporary. To see what is below the threshold, use --threshold of export or the slider of view.</b></p>
{% endif %}
{{ table(keys, rows) }}
<p>{% for key, meaning in meanings %}<b>{{ key }}</b> {{ meaning }}. {% endfor %}</p>
{% else %}
<p>No evaluation yet.</p>
{% endif %}
{% for file in curves %}<h2>{{ file.stem | upper }}</h2>{{ image(file, "curve") }}{% endfor %}
{% if image_metrics.exists() %}<h2>Fidelity and variety of the images</h2>{{ image(image_metrics, "curve") }}{% endif %}
{% if shape_metrics.exists() %}<h2>Shapes compared with those of the data</h2>{{ image(shape_metrics, "curve") }}{% endif %}
{% if grids %}
<p>The sliders go from the first evaluation to the last: the same latents, one viewpoint per row.</p>
{% endif %}
{% for heading, files in grids %}{{ slider(files, heading) }}{% endfor %}
{% if reals.exists() %}<h2>Real images</h2>{{ image(reals) }}{% endif %}
{% if shapes %}
<h2>Shapes</h2>
<div class="row">
{% for file, images in shapes %}
<figure class="shape">
{% for path in images %}{{ image(path) }}{% endfor %}
<figcaption><a download="{{ file.name }}" href="{{ file.read_bytes() | data_url("model/gltf-binary") }}">{{ file.name }}</a>
</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
{% for file in texts %}<h2>{{ file.name }}</h2><pre>{{ file.read_text("utf-8", "replace") }}</pre>{% endfor %}
{% endblock %}
"""


class Report(pl.Callback):
    """Writes ``report.html`` after each evaluation and at the end of a run.

    The page contains the metrics, sample grids over time, real images, shapes to download, and the config.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_fit_evaluation(trainer):
            write_report(Path(trainer.default_root_dir), monitor_of(trainer))

    @rank_zero_only
    def on_fit_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        path = write_report(Path(trainer.default_root_dir), monitor_of(trainer))
        print(f"see {path}")


def write_report(folder: Path, monitor: Monitor) -> Path:
    """Write the page of the run in ``folder`` from the files of the other callbacks; return its path."""
    path = folder / "report.html"
    write_page(
        path,
        TEMPLATE,
        title=f"unrender: {folder.parent.name} {folder.name}",
        **_evaluations(folder, monitor),
        curves=_existing(*(folder / f"{name}.png" for name in DISTANCES)),
        image_metrics=folder / "image_metrics.png",
        shape_metrics=folder / "shape_metrics.png",
        grids=[(heading, files) for name, heading in GRIDS.items() if (files := grids(folder / name))],
        reals=folder / "reals.png",
        shapes=[
            (file, _existing(file.with_suffix(".png"), file.with_name(f"{file.stem}_normals.png")))
            for file in sorted((folder / "shapes").glob("*.glb"))
        ],
        texts=_existing(*(folder / name for name in ("command.txt", "version.json", "config.yaml"))),
    )
    return path


def _evaluations(folder: Path, monitor: Monitor) -> dict[str, Any]:
    lines = read_metrics(folder)
    if not lines:
        return {"rows": []}
    last, comparable = lines[-1], comparable_lines(lines)
    keys = [key for key, value in last.items() if isinstance(value, int | float)]
    name, best = monitor.name(last), monitor.best(lines)
    after = best and monitor.exclusion(comparable[0], best)
    return {
        "note": last["note"],
        "others": len(lines) - len(comparable),
        "best": best and f"Best {name}{after}: {format_metric(name, best)} at {best['kimg']:g} kimg.",
        "empty": last.get("occupancy") == 0,
        "keys": keys,
        "rows": [[f"{line[key]:.4g}" if key in line else "" for key in keys] for line in comparable],
        "meanings": [(key, meaning) for key, meaning in MEANINGS.items() if key in keys],
    }


def _existing(*paths: Path) -> list[Path]:
    return [path for path in paths if path.exists()]
