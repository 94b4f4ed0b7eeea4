"""Scenes on a server that stalls, cuts the connection, or is not available: asked for again, or a clear error."""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import rasterio.shutil
from rasterio._err import CPLE_FileIOError

from landcover.errors import SceneError
from landcover.models import Model
from landcover.prediction import predict
from landcover.preview import preview
from landcover.products import raster
from landcover.scene import open_scene
from tests.commands import tree
from tests.faults.runs import command
from tests.scenes import digital_numbers, write_scene

HEADER = 16 << 10
"""Bytes at the beginning of the file; requests beyond them are for pixels."""


class Server:
    """Serves one file in ranges; `trouble` befalls the next `times` requests for bytes beyond the `first`."""

    def __init__(self, content: bytes) -> None:
        self.trouble, self.times, self.requests, self.first = "none", 0, 0, HEADER
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, stop = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
                troubled = stop > server.first and asked and server.next_is_troubled()
                if troubled and server.trouble == "503":
                    self.send_error(503)
                    return
                self.send_response(206 if asked else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(stop - start))
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
                self.end_headers()
                if not body:
                    return
                if troubled:
                    self.wfile.write(content[start : (start + stop) // 2])
                    self.wfile.flush()
                    if server.trouble == "stall":
                        server.over.wait()
                    self.close_connection = True
                    return
                self.wfile.write(content[start:stop])

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/scene.tif"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def next_is_troubled(self) -> bool:
        self.requests += 1
        self.times -= 1
        return self.times >= 0

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(params=["deflate", "none"])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Stale bytes can be decoded where nothing is compressed."""
    (tmp_path / "local").mkdir()
    plain = write_scene(tmp_path / "plain.tif", digital_numbers(1100, 900), nodata=0)
    rasterio.shutil.copy(plain, tmp_path / "local" / "scene.tif", driver="COG", compress=request.param)
    return tmp_path / "local" / "scene.tif"


@pytest.fixture
def server(scene: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in {
        "GDAL_HTTP_MAX_RETRY": "1",
        "GDAL_HTTP_RETRY_DELAY": "0.05",
        "GDAL_HTTP_LOW_SPEED_TIME": "1",
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    }.items():
        monkeypatch.setenv(name, value)
    server = Server(scene.read_bytes())
    yield server
    server.close()


HOW = {"engine": "torch", "allow_untrained": True}


@pytest.mark.parametrize(("trouble", "times"), [("none", 0), ("503", 1), ("cut", 1), ("stall", 1)])
def test_a_passing_trouble_is_not_noticed(
    tmp_path: Path, scene: Path, server: Server, pointwise: Model, trouble: str, times: int
) -> None:
    predict(scene, tmp_path / "wanted.tif", model=pointwise, **HOW)
    server.trouble, server.times = trouble, times
    predict(server.url, tmp_path / "map.tif", model=pointwise, **HOW)
    assert server.requests > times
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "wanted.tif").read_bytes()


def test_a_server_that_is_busy_at_first_is_asked_again(
    tmp_path: Path, server: Server, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the very first request, for the header."""
    monkeypatch.delenv("GDAL_HTTP_MAX_RETRY")
    server.trouble, server.times, server.first = "503", 2, 0
    predict(server.url, tmp_path / "map.tif", model=pointwise, **HOW)
    assert server.requests > 2


@pytest.mark.parametrize("trouble", ["503", "cut", "stall"])
def test_a_lasting_trouble_is_a_clear_error(tmp_path: Path, server: Server, pointwise: Model, trouble: str) -> None:
    server.trouble, server.times = trouble, 10**6
    with pytest.raises(SceneError, match=r"scene.tif cannot be read at rows .* its server may be out of reach"):
        predict(server.url, tmp_path / "map.tif", model=pointwise, **HOW)
    assert not (tmp_path / "map.tif").exists()
    assert not [t for t in threading.enumerate() if t.name in ("read-ahead", "write-behind")]


@pytest.mark.parametrize("trouble", ["503", "cut"])
def test_a_picture_does_not_lack_what_a_server_did_not_send(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """With several threads GDAL would show it as missing, or black, and give no error."""
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")
    server.trouble, server.times = trouble, 10**6
    with pytest.raises(SceneError, match=r"scene\.tif cannot be read"):
        preview(server.url, tmp_path / "picture.png", size=1100)
    assert not (tmp_path / "picture.png").exists()


def test_a_server_that_is_lost_while_a_header_is_read_is_told(monkeypatch: pytest.MonkeyPatch, scene: Path) -> None:
    """GDAL reads what a band is for only when it is asked, and rasterio passes its error on as it is."""

    def lost(*_: object) -> None:
        raise CPLE_FileIOError(0, 0, "Cannot read 126451001 bytes")

    monkeypatch.setattr(raster, "_band", lost)
    with pytest.raises(SceneError, match=r"scene\.tif cannot be read: Cannot read 126451001 bytes; its server may be"):
        open_scene(str(scene), ("red", "nir"))


def test_a_server_that_never_answers_does_not_keep_an_interrupted_run(
    tmp_path: Path, server: Server, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "600")
    server.trouble, server.times = "stall", 10**6
    out = tmp_path / "map.tif"
    process = subprocess.Popen(command(server.url, out, pointwise), stderr=subprocess.PIPE, text=True)
    while not server.requests:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Error: interrupted" in err
    assert not server.over.is_set(), "the server was still holding its answer back"
    assert "map.tif" not in tree(tmp_path)
