"""A page about a map: its picture, how much land each class covers, how good it is, and what made it."""

import base64
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from landcover.assessment import Assessment, assess
from landcover.classmap import open_map
from landcover.errors import ConfigError, is_text
from landcover.outputs import check_destination, publish_text
from landcover.preview import map_picture
from landcover.provenance import PREFIX, inherited, without_secrets
from landcover.specs import Legend
from landcover.stats import AreaTable, note_on_zones, stats

_PICTURE = 1400
"""The longest side of the picture, in pixels."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }}
th, td {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
.numbers td {{ white-space: nowrap; }}
.facts td {{ text-align: left; }}
.facts td:last-child {{ overflow-wrap: anywhere; }}
.swatch {{ display: inline-block; width: .9em; height: .9em; margin-right: .5em; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><img src="data:image/png;base64,{picture}" alt="The map"></p>
<h2>Areas</h2>
{areas}
<h2>Accuracy</h2>
{accuracy}
<h2>What made it</h2>
{facts}
</body>
</html>
"""


def report(
    map_path: str | Path,
    out: str | Path,
    *,
    scene: str | Path | None = None,
    reference: str | Path | None = None,
    column: str | None = None,
    zones: str | Path | None = None,
    zone_name: str | None = None,
    legend: Legend | str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a page about a class map, one HTML file that needs no other.

    Args:
        map_path: a class map with a CRS.
        out: the page.
        scene: shown beside the map.
        reference, column: labelled points or a raster of classes, as `assess` takes them.
        zones, zone_name: polygons with an area table each, as `stats` takes them.
        legend: a legend, its name or its file, for maps that carry none.
        overwrite: replace the page if it exists.

    Raises:
        ConfigError: the name of the page does not end in .html, or a reference, zone or option cannot be used.
        LandcoverError: the map, the scene or the page cannot be read or written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{out} is not the name of a page; let it end in .html")
    if column is not None and reference is None:
        raise ConfigError("--column is given without --reference; add the reference, or leave it out")
    check_destination(out, overwrite=overwrite)
    picture = io.BytesIO()  # first, for it is quick, and tells what is wrong with the scene
    map_picture(map_path, _PICTURE, scene=scene, legend=legend).save(picture, "PNG")
    assessed = assess(map_path, reference, column=column, legend=legend) if reference is not None else None
    tables = stats(map_path, zones=zones, zone_name=zone_name, legend=legend)
    with open_map(map_path, legend) as (dataset, known):
        grid = {
            "pixels": f"{dataset.width:,} × {dataset.height:,}",
            "coordinates": dataset.crs.to_string(),
            "bounds": ", ".join(f"{v:.10g}" for v in dataset.bounds),
        }
        made = {k.removeprefix(PREFIX).lower(): _fact(v) for k, v in inherited(dataset.tags()).items()}
    colours = {c.name: c.color for c in known.classes}
    page = _PAGE.format(
        title=_escaped(Path(without_secrets(str(map_path))).name),
        picture=base64.b64encode(picture.getvalue()).decode(),
        areas="\n".join([*_notes([note_on_zones(tables)]), *(_areas(table, colours) for table in tables)]),
        accuracy=_accuracy(assessed, colours) if assessed else _UNKNOWN,
        facts=_table([], [[_escaped(k), _escaped(v)] for k, v in (grid | made).items()], kind="facts"),
    )
    publish_text(out, page)


_UNKNOWN = (
    "<p>Not assessed. Areas counted from a map are biased by its errors: draw points with <code>landcover sample</code>"
    ", label them, and give them to this report with <code>--reference</code>.</p>"
)


def _fact(tag: str) -> str:
    """A tag as people read it: what is JSON, without braces and quotes."""
    with suppress(ValueError, RecursionError):
        value = json.loads(tag)
        return _plain(value) if is_text(value) else tag
    return tag


def _escaped(text: str) -> str:
    """A text in which nothing is taken for markup, without signs that a page cannot hold."""
    return escape("".join(c for c in text if c.isprintable() or c.isspace()))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{k} ({_plain(v)})" if isinstance(v, dict) else f"{k} {_plain(v)}" for k, v in value.items())
        return ", ".join(parts)
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _areas(table: AreaTable, colours: dict[str, str]) -> str:
    rows = [[_named(name, colours), *cells] for name, *cells in table.told()]
    title = "" if table.zone is None else f"<h3>{_escaped(table.zone)}</h3>\n"
    return title + _table(["class", "pixels", "hectares", "percent"], rows)


def _accuracy(found: Assessment, colours: dict[str, str]) -> str:
    what, area = ("points", "hectares") if found.sampled else ("pixels", "reference hectares")
    interval = f", with intervals of {100 * found.level:g} % confidence" if found.sampled else ""
    headers = ["class", "mapped hectares", area, "user’s %", "producer’s %", "F1 %"]
    rows = [[_named(c.class_name, colours), *c.told()] for c in found.classes]
    counts = [
        [_named(c.class_name, colours), *(f"{n:,}" for n in row)]
        for c, row in zip(found.classes, found.counts, strict=True)
    ]
    names = [_escaped(c.class_name) for c in found.classes]
    return "\n".join(
        [
            f"<p>Overall accuracy {found.overall.told()} %, from {found.compared:,} {what}{interval}.</p>",
            *_notes(found.notes),
            _table(headers, rows),
            f"<p>{what.capitalize()} by class of the map (down) and of the reference (across):</p>",
            _table(["", *names], counts),
        ]
    )


def _notes(notes: Iterable[str]) -> Iterable[str]:
    return (f"<p>{_escaped(note[:1].upper() + note[1:])}.</p>" for note in notes if note)


def _named(name: str, colours: dict[str, str]) -> str:
    """A class with its colour; nodata has none."""
    return f'<span class="swatch" style="background:{colours.get(name, "none")}"></span>{_escaped(name)}'


def _table(headers: list[str], rows: Iterable[list[Any]], kind: str = "numbers") -> str:
    """A table of cells that are HTML already."""
    head = "<tr>" + "".join(f"<th>{h}</th>" for h in headers) + "</tr>\n" if headers else ""
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}">\n{head}{body}\n</table>'
