"""Pages that need nothing else: images and files lie inside."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.files import write_atomically

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
img { max-width: 100%; image-rendering: pixelated } img.curve { image-rendering: auto }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td { vertical-align: top; overflow-wrap: break-word }
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


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of parts in HTML."""
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}<script>{SLIDER}</script></html>"
    )
    write_atomically(path, lambda file: file.write_text(page, encoding="utf-8") and None)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts; a column of numbers alone stands to the right."""
    numbers = [
        any(map(_is_number, column)) and all(map(_is_number_or_none, column)) for column in zip(*rows, strict=True)
    ]
    kinds = [" class=number" if number else "" for number in numbers] or [""] * len(heads)
    lines = [
        "<tr>"
        + "".join(f"<{tag}{kind}>{_breakable(text)}</{tag}>" for text, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for tag, row in (("th", heads), *(("td", row) for row in rows))
    ]
    return f"<div style='overflow-x:auto'><table>{''.join(lines)}</table></div>"


def when(sheet: Path) -> str:
    """Of which moment a sheet is: ``2.98 kimg`` of ``000002.98kimg.png``."""
    return re.sub(r"^0*(?=\d)", "", sheet.stem).replace("kimg", " kimg")


def film(folder: Path, heading: str) -> str:
    """A folder's PNGs under one slider, the last one shown; nothing where there are none."""
    frames = sorted(folder.glob("*.png"))
    if not frames:
        return ""
    figures = "".join(f"<figure>{image(f)}<figcaption>{html.escape(when(f))}</figcaption></figure>" for f in frames)
    last = len(frames) - 1
    return (
        f"<h2>{html.escape(heading)}</h2><div class=film><input type=range min=0 max={last} value={last}"
        f" aria-label={json.dumps(heading)}>{figures}</div>"
    )


def image(path: Path, kind: str = "") -> str:
    """A PNG within the page; ``kind`` is its CSS class."""
    return f"<img class='{kind}' alt='{html.escape(path.stem)}' src='{data_url(path, 'image/png')}'>"


def _breakable(text: str) -> str:
    """A text whose long words, such as paths, may be broken after their signs."""
    return re.sub(r"\S{20,}", lambda word: re.sub(r"([./_])", r"\1<wbr>", word[0]), html.escape(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_number_or_none(text: str) -> bool:
    return text in ("", "–") or _is_number(text)


def data_url(path: Path, mime: str) -> str:
    """A file's content as an address."""
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
