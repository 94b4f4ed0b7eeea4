"""Draw a piece of a map and its polygons: as traced, simplified, and simplified and smoothed.

python benchmarks/outlines_picture.py map.tif --row 150 --col 150 --side 120 --out docs/images/polygons.png
"""

import argparse
from pathlib import Path

import geopandas
import matplotlib.pyplot as plt
import numpy as np
import pandas
import rasterio
from rasterio.windows import Window

import landcover
from landcover.classmap import open_map

WAYS = {
    "as traced": {},
    "0.5 ha merged, simplified by 10 m": {"min_area": 5000, "simplify": 10},
    "the same, smoothed": {"min_area": 5000, "simplify": 10, "smooth": True},
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("map", type=Path)
    p.add_argument("--row", type=int, default=0)
    p.add_argument("--col", type=int, default=0)
    p.add_argument("--side", type=int, default=120)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    with open_map(a.map) as (dataset, legend):
        window = Window(a.col, a.row, a.side, a.side)
        ids, bounds = dataset.read(1, window=window), rasterio.windows.bounds(window, dataset.transform)
    colours = np.ones((256, 3))
    for c in legend.classes:
        colours[c.id] = np.array(c.rgb) / 255
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.4), dpi=80)
    west, south, east, north = bounds
    axes[0].imshow(colours[ids], extent=(west, east, south, north), interpolation="nearest")
    axes[0].set_title("map")
    for ax, (title, how) in zip(axes[1:], WAYS.items(), strict=True):
        table = geopandas.GeoDataFrame(pandas.concat(list(landcover.polygons(a.map, **how))))
        table.plot(ax=ax, color=[tuple(colours[i]) for i in table.class_id], edgecolor="black", linewidth=0.6)
        ax.set_title(title, fontsize=11)
    for ax in axes:
        ax.set_xlim(west, east)
        ax.set_ylim(south, north)
        ax.set_axis_off()
    figure.tight_layout()
    figure.savefig(a.out)


if __name__ == "__main__":
    main()
