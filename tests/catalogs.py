"""Catalogs for the tests: STAC documents and tables about rasters that need not exist."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SQUARE = [[[14.0, 45.0], [15.0, 45.0], [15.0, 46.0], [14.0, 46.0], [14.0, 45.0]]]


def stac_item(name: str = "a", *, href: str = "a.tif", **properties: Any) -> dict[str, Any]:
    """A STAC Item with one raster of two bands, red and near infrared."""
    bands = [{"name": "B04", "eo:common_name": "red"}, {"name": "B08", "eo:common_name": "nir"}]
    asset = {"href": href, "type": "image/tiff", "roles": ["data"], "bands": bands, "proj:shape": [120, 90]}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": "squares",
        "geometry": {"type": "Polygon", "coordinates": SQUARE},
        "bbox": [14.0, 45.0, 15.0, 46.0],
        "properties": {"datetime": "2024-06-01T10:30:00Z"} | properties,
        "links": [],
        "assets": {
            "image": asset | {"raster:scale": 1e-4, "raster:offset": 0.0},
            "thumbnail": {"href": "a.png", "type": "image/png", "roles": ["thumbnail"]},
        },
    }


def collection(*items: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(items)}


def node(name: str, *links: tuple[str, str], kind: str = "Catalog") -> dict[str, Any]:
    """A static STAC Catalog or Collection; links are pairs of relation and href."""
    more = {
        "license": "other",
        "extent": {"spatial": {"bbox": [[14, 45, 15, 46]]}, "temporal": {"interval": [["2024-01-01T00:00:00Z", None]]}},
    }
    return {
        "type": kind,
        "stac_version": "1.1.0",
        "id": name,
        "description": name,
        "links": [{"rel": rel, "href": href} for rel, href in links],
    } | (more if kind == "Collection" else {})


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@contextmanager
def serving(pages: dict[str, Any]) -> Iterator[str]:
    """Serve JSON documents by their paths; yields the address of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404)
                return
            content = json.dumps(pages[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
