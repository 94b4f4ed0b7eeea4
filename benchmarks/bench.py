"""Is prediction as fast as the machine? Every target with its figure, measured in one run.

    python benchmarks/bench.py [--only NAME …] [--write docs/performance.md]

Whole commands are timed in processes of their own, from the shell to the file on disk, on scenes repeated from a real
sample. With --write the table replaces the one between the marks in that file.
"""

import argparse
import datetime
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from measure import ROOT, SAMPLE, Row, Taken, apart, outside, run
from rasterio.windows import Window

from landcover.synthetic import mosaic_scene

SIDE = 10_980
TALL = 8 * SIDE
SQUARE = 16_384
SPARSE = 100_000
LABELS = 4_000
SEAMS = 8_000
"""So large that seams fall on all kinds of ground, and the whole image still fits in memory at once."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


class Bench:
    """The scenes, made when they are first needed, and the measurements on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: dict[str, Taken] = {}

    def scene(self, name: str, height: int, width: int, sample: Path = SAMPLE) -> Path:
        path = self.folder / f"{name}.tif"
        if not path.exists():
            mosaic_scene(path, sample, height, width)
        return path

    def large(self) -> Path:
        return self.scene("large", SIDE, SIDE)

    def predict(self, name: str, scene: Path, *more: str | Path) -> Taken:
        """Map a scene, once for each name; the converted network is in the cache."""
        if name not in self._taken:
            self.warm()
            self._taken[name] = run("predict", scene, "-o", self.map(name), "-f", *more)
        return self._taken[name]

    def map(self, name: str) -> Path:
        return self.folder / f"{name}_map.tif"

    def warm(self) -> None:
        """Convert the network, so that no timed run does."""
        if "warm" not in self._taken:
            self._taken["warm"] = run("predict", self.large(), "-o", self.map("large"), "-f")

    # Each of the following measures some rows of the table.

    def end_to_end(self) -> Iterator[Row]:
        """Against the floor."""
        best = min((self._large() for _ in range(3)), key=lambda t: t.wall)
        self._taken["large"] = best
        stages = apart(_stages, self.large())
        floor = stages.floor_cpu / (os.cpu_count() or 1)
        ratio = best.wall / floor
        parts = ", ".join(f"{name} {taken.cpu:.1f}" for name, taken in stages._asdict().items())
        yield Row(
            f"predict, {SIDE:,}² × 6 uint16, defaults: seconds against the floor",
            "≤ 1.25 ×",
            f"{ratio:.2f} ×",
            ratio <= 1.25,
            f"{best.wall:.1f} s of {floor:.1f} s; {best.cpu:.1f} CPU s; best of 3. CPU s by stage: {parts}",
        )
        yield Row("the same, rate", "", f"{SIDE**2 / best.wall / 1e6:.2f} Mpx/s", None)

    def _large(self) -> Taken:
        self._taken.pop("large", None)
        return self.predict("large", self.large())

    def usual_way(self) -> Iterator[Row]:
        """Against rasterio, torch and MONAI, with the labels of both."""
        ours, (tile, overlap) = self.predict("large", self.large()), _windows(self.large())
        theirs = _usual_way(self.large(), self.map("usual"), tile, overlap)
        times = theirs.wall / ours.wall
        yield Row(
            "the same, against rasterio + torch f32 + MONAI's sliding window",
            "≥ 10 ×",
            f"{times:.1f} ×",
            times >= 10,
            " against ".join(f"{taken.wall:.1f} s and {taken.peak / 1e9:.2f} GB" for taken in (ours, theirs)),
        )
        small = self.scene("labels", LABELS, LABELS)
        tile, overlap = _windows(small)
        self.predict("whole", small, "--tile-size", "16384", "--overlap", "0", "--precision", "f32")
        self.predict("small", small)
        self.predict("small_f32", small, "--precision", "f32")
        _usual_way(small, self.map("small_usual"), tile, overlap)
        f32, fast, usual = (
            _differ(self.map(name), self.map("whole")) for name in ("small_f32", "small", "small_usual")
        )
        yield Row(
            f"labels that differ from the whole image scored at once in f32, {LABELS:,}²",
            "≤ the usual way's",
            f"{f32:.3%} in f32, {fast:.3%} by default",
            fast <= usual,
            f"usual way {usual:.3%}",
        )

    def seams(self) -> Iterator[Row]:
        """What the overlap costs, and what it is worth."""
        scene = self.scene("seams", SEAMS, SEAMS)
        self.predict("parts", scene)
        self.predict("at_once", scene, "--tile-size", "16384", "--overlap", "0")
        seams, work = _differ(self.map("parts"), self.map("at_once")), _plan(self.large()).work
        yield Row(
            "overlap: labels that differ from the whole image in the same precision; work repeated",
            "≤ 0.1 %; ≤ 15 %",
            f"{seams:.3%}; {work - 1:.1%}",
            seams <= 0.001 and work <= 1.15,
            f"labels on {SEAMS:,}², work on {SIDE:,}²",
        )

    def pipeline(self) -> Iterator[Row]:
        """All but the network."""
        sample, model = self.folder / "four.tif", self.folder / "one"
        bands = "blue,green,red,nir"
        _four_bands(sample)
        scene = self.scene("square", SQUARE, SQUARE, sample)
        if not model.exists():
            fixed = ("--architecture", "pointwise", "--classes", "a,b,c,d")
            run("models", "init", *fixed, "--bands", bands, "--out", model)
        how = ("-m", model, "--allow-untrained")
        taken = min((run("predict", scene, "-o", self.map("one"), "-f", *how) for _ in range(3)), key=lambda t: t.wall)
        rate = SQUARE**2 / taken.wall / 1e6
        yield Row(
            f"the pipeline alone: a network of one pixel on {SQUARE:,}² × 4",
            "≥ 20 Mpx/s",
            f"{rate:.1f} Mpx/s",
            rate >= 20,
            f"{taken.wall:.1f} s, {taken.cpu:.1f} CPU s, {taken.peak / 1e6:.0f} MB; best of 3",
        )

    def memory(self) -> Iterator[Row]:
        """Whatever the number of rows."""
        short = self.predict("large", self.large())
        yield Row(f"peak memory, {SIDE:,}²", "≤ 1.5 GB", f"{short.peak / 1e9:.2f} GB", short.peak <= 1.5e9)
        scene = self.scene("tall", TALL, SIDE)
        tall = run("predict", scene, "-o", self.map("tall"), "-f")
        more = tall.peak / short.peak - 1
        yield Row(
            f"peak memory of {TALL:,} rows of the same width",
            "within 5 %",
            f"{more:+.1%}",
            abs(more) <= 0.05,
            f"{tall.peak / 1e9:.2f} GB; {tall.wall:.0f} s",
        )
        scene.unlink()

    def sparse(self) -> Iterator[Row]:
        """Empty scenes cost what is in them."""
        scene = self.folder / "sparse.tif"
        _sparse_scene(scene, self.large())
        taken, dense = run("predict", scene, "-o", self.map("sparse"), "-f"), self.predict("large", self.large())
        yield Row(
            f"{SPARSE:,}² of which {SIDE:,}² are valid",
            "finishes; < 2 GB",
            f"{taken.wall:.0f} s; {taken.peak / 1e9:.2f} GB",
            taken.peak < 2e9,
            f"{taken.wall / dense.wall:.2f} × the time of the valid part alone",
        )
        scene.unlink()

    def small(self) -> Iterator[Row]:
        """What a person waits for."""
        scene = self.scene("tiny", 512, 512)
        run("predict", scene, "-o", self.map("tiny"), "-f")
        taken = min((run("predict", scene, "-o", self.map("tiny"), "-f") for _ in range(3)), key=lambda t: t.wall)
        yield Row("predict, 512², from the shell to the map", "≤ 3 s", f"{taken.wall:.2f} s", taken.wall <= 3)
        taken = min((run("--help") for _ in range(5)), key=lambda t: t.wall)
        yield Row("landcover --help", "≤ 0.3 s", f"{taken.wall:.2f} s", taken.wall <= 0.3)

    def others(self) -> Iterator[Row]:
        """The other commands, without targets here."""
        self.warm()
        taken = run("stats", self.map("large"))
        yield Row(f"stats, {SIDE:,}²", "", f"{taken.wall:.1f} s", None, f"{taken.peak / 1e9:.2f} GB")

    def polygons(self) -> Iterator[Row]:
        """Vectorising."""
        import vectors

        self.warm()
        yield from vectors.rows(self.map("large"), self.folder)


MEASURES: tuple[Callable[[Bench], Iterator[Row]], ...] = (
    Bench.end_to_end,
    Bench.usual_way,
    Bench.seams,
    Bench.pipeline,
    Bench.memory,
    Bench.sparse,
    Bench.small,
    Bench.others,
    Bench.polygons,
)


def main() -> None:
    names = [m.__name__ for m in MEASURES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="measure these alone")
    parser.add_argument("--write", type=Path, help="the Markdown file whose table is to be replaced")
    parser.add_argument("--folder", type=Path, help="keep scenes and maps here, and use what is there")
    args = parser.parse_args()
    lines = ["| what | target | measured | met | details |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.folder or Path(folder))
        os.environ["LANDCOVER_CACHE"] = str(bench.folder / "cache")
        for measure in MEASURES:
            if measure.__name__ in args.only:
                for row in measure(bench):
                    print(row, flush=True)
                    lines.append(str(row))
    if args.write:
        when = f"{datetime.date.today():%d %B %Y}, {_machine()}."
        table = f"{BEGIN}\n{when}\n\n" + "\n".join(lines) + f"\n{END}"
        text = args.write.read_text(encoding="utf-8")
        args.write.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


def _stages(scene: Path):
    import stages

    return stages.measure(scene)


def _usual_way(scene: Path, out: Path, tile: int, overlap: int) -> Taken:
    script = ROOT / "benchmarks" / "usual_way.py"
    return outside(sys.executable, script, scene, out, "--tile", tile, "--overlap", overlap)


def _windows(scene: Path) -> tuple[int, int]:
    """Size and overlap of the windows that the defaults make of a scene."""
    axis = _plan(scene).grid.rows
    return axis.tile, axis.tile - axis.step


def _plan(scene: Path):
    from landcover.planning import Options, make_plan

    return make_plan(Options(scene, scene.with_name("never_written.tif")))


def _differ(one: Path, other: Path) -> float:
    """Share of pixels with different labels."""
    with rasterio.open(one) as a, rasterio.open(other) as b:
        return float(np.mean(a.read(1) != b.read(1)))


def _four_bands(path: Path) -> None:
    """The sample without its last two bands."""
    with rasterio.open(SAMPLE) as file:
        profile = {**file.profile, "count": 4}
        with rasterio.open(path, "w", **profile) as four:
            four.write(file.read([1, 2, 3, 4]))
            four.descriptions, four.scales, four.offsets = file.descriptions[:4], file.scales[:4], file.offsets[:4]


def _sparse_scene(path: Path, valid: Path) -> None:
    """A scene that is empty, but for another one in its middle."""
    at = (SPARSE - SIDE) // 2 // 512 * 512
    with rasterio.open(valid) as file:
        profile = {**file.profile, "height": SPARSE, "width": SPARSE, "nodata": 0}
        profile.update(sparse_ok=True, num_threads="all_cpus", bigtiff="yes")
        with rasterio.open(path, "w", **profile) as out:
            out.descriptions, out.scales, out.offsets = file.descriptions, file.scales, file.offsets
            for row in range(0, SIDE, 512):
                rows = min(512, SIDE - row)
                out.write(file.read(window=Window(0, row, SIDE, rows)), window=Window(at, at + row, SIDE, rows))


def _machine() -> str:
    """The processor and the versions that matter."""
    from importlib.metadata import version

    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    names = ", ".join(f"{name} {version(name)}" for name in ("openvino", "torch", "monai", "rasterio"))
    return f"{os.cpu_count()} cores of {model[1] if model else platform.processor()}, {names}"


if __name__ == "__main__":
    main()
