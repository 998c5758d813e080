"""Self-contained HTML pages: Jinja2 templates with automatic escaping; images and files are embedded as data URLs."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from utils.files import write_atomically

NUMBER = re.compile(r"-?[\d.]+(e[-+]?\d+)?|-?inf|nan")
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
img { max-width: 100%; image-rendering: pixelated } img.curve { image-rendering: auto }
.table { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd; overflow-wrap: break-word }
td { vertical-align: top } .number { text-align: right; font-variant-numeric: tabular-nums }
.row { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0 } figcaption { color: #555; font-size: .9em }
.shape { width: 250px } pre { background: #f4f4f4; padding: .8em; overflow-x: auto; font-size: .8em }
input[type=range] { width: 100% }
</style>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
<script>
for (const box of document.querySelectorAll('.slider')) {
  const frames = box.querySelectorAll('figure'), range = box.querySelector('input');
  const show = () => frames.forEach((f, i) => f.hidden = i != range.value);
  range.oninput = show; show();
}
</script>
</html>
"""
MACROS = """\
{% macro image(file, class="") -%}
<img class="{{ class }}" alt="{{ file.stem }}" src="{{ file.read_bytes() | data_url("image/png") }}">
{%- endmacro %}
{% macro table(heads, rows) -%}
{% set classes = rows | column_classes(heads | length) -%}
<div class="table"><table>
<tr>{% for head in heads %}<th class="{{ classes[loop.index0] }}">{{ head | breakable }}</th>{% endfor %}</tr>
{% for row in rows -%}
<tr>{% for text in row %}<td class="{{ classes[loop.index0] }}">{{ text | breakable }}</td>{% endfor %}</tr>
{% endfor -%}
</table></div>
{%- endmacro %}
{% macro slider(files, heading) -%}
<h2>{{ heading }}</h2>
<div class="slider">
<input type="range" min="0" max="{{ files | length - 1 }}" value="{{ files | length - 1 }}" aria-label="{{ heading }}">
{% for file in files -%}
<figure>{{ image(file) }}<figcaption>{{ file | kimg }}</figcaption></figure>
{% endfor -%}
</div>
{%- endmacro %}
"""


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template to ``path``.

    Args:
        path: The page's file.
        template: Extends ``page`` and may import the macros of ``macros``.
        values: Its variables. ``title`` is required.
    """
    page = _environment().from_string(template).render(values)
    write_atomically(path, lambda file: file.write_text(page, encoding="utf-8", errors="replace"))


def grids(folder: Path) -> list[Path]:
    """Return the PNGs in a directory, oldest first; empty if it does not exist."""
    return sorted(folder.glob("*.png"))


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"page": PAGE, "macros": MACROS}), autoescape=True, undefined=StrictUndefined
    )
    filters = {"breakable": _breakable, "column_classes": _column_classes, "data_url": _data_url, "kimg": _kimg}
    environment.filters.update(filters)
    return environment


def _breakable(text: str) -> Markup:
    """Allow line breaks after punctuation in long words, such as paths."""
    return Markup(re.sub(r"\S{20,}", lambda word: re.sub(r"([./_])", r"\1<wbr>", word[0]), str(escape(text))))


def _column_classes(rows: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return ``number`` for each column that contains only numbers (right-aligned), else an empty string."""
    columns = list(zip(*rows, strict=True)) or [()] * count
    texts = [[text for text in column if text not in ("", "–")] for column in columns]
    return ["number" if column and all(map(NUMBER.fullmatch, column)) else "" for column in texts]


def _data_url(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _kimg(file: Path) -> str:
    """Return the kimg of a grid for captions: ``2.98 kimg`` for ``000002.98kimg.png``."""
    return re.sub(r"^0*(?=\d)", "", file.stem).replace("kimg", " kimg")
