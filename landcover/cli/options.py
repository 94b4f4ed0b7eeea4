"""Options that several commands share, so that they have one spelling and one help."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Json = Annotated[bool, Option("--json", help="Print one JSON document.")]
Overwrite = Annotated[bool, Option("--overwrite", "-f", help="Replace the output if it exists.")]

SceneName = Annotated[
    str, Argument(metavar="SCENE", help="Any raster GDAL reads, a folder of band files, or a STAC item.")
]
Sensor = Annotated[str | None, Option(help="A sensor's name, such as sentinel2-l2a, or a TOML file that describes it.")]
Bands = Annotated[list[str] | None, Option(metavar="<str>", help="Which band is which, as red=4,nir=8.")]
Scale = Annotated[float | None, Option(help="Reflectance = number × SCALE + offset.")]
Offset = Annotated[float | None, Option(help="Reflectance = number × scale + OFFSET.")]

MapName = Annotated[str, Argument(metavar="MAP", help="A class map, as landcover predict writes it.")]
MissingLegend = Annotated[str | None, Option(help="A legend's name or TOML file, for a map that carries none.")]

ModelFolder = Annotated[Path, Option("--out", "-o", help="The model folder to write.")]
OverwriteModel = Annotated[bool, Option("--overwrite", "-f", help="Replace a model that exists.")]
ModelName = Annotated[
    str, Option("--model", "-m", help="An embedded model's name, or a model folder.", show_default="by its bands")
]
MapLegend = Annotated[
    str | None,
    Option("--legend", help="Numbers and colours of the map, by names of classes: a legend's name or TOML file."),
]
TileSize = Annotated[int, Option(help="Side of a window, in pixels.")]
Overlap = Annotated[int, Option(help="Pixels that neighbouring windows share.")]
BatchSize = Annotated[int | None, Option(help="Windows scored at once.", show_default="by device")]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Engine = Annotated[str, Option(help="auto, openvino or torch.")]
Precision = Annotated[str, Option(help="f32, bf16, or auto: bf16 where processor and model allow it.")]
AllowNoCrs = Annotated[bool, Option("--allow-no-crs", help="Map a scene without a CRS.")]
AllowUntrained = Annotated[bool, Option("--allow-untrained", help="Use an untrained model, for tests.")]
AllowResolution = Annotated[
    bool, Option("--allow-resolution", help="Use a model far from the resolution it was trained for.")
]

ChosenBox = Annotated[str | None, Option(help="Scenes that meet this box: west,south,east,north in degrees.")]
ChosenArea = Annotated[str | None, Option(metavar="<path>", help="Scenes that meet these polygons; a vector file.")]
ChosenTime = Annotated[str | None, Option(help="Scenes of this time, as 2024-06-01/2024-08-31.")]
ChosenWhere = Annotated[str | None, Option(help='Scenes for which this SQL expression holds, as "cloud < 20".')]
ChosenLimit = Annotated[int | None, Option(help="No more scenes than this.")]

Classes = Annotated[
    list[str] | None,
    Option(metavar="<str>", help="Write only polygons of these classes, as forest,water; their shapes do not change."),
]
MinArea = Annotated[
    str, Option(help="Merge smaller patches into their neighbours: 500 (m²) or 0.5ha.", show_default=False)
]
Connect = Annotated[int, Option(help="4: pixels are joined by their edges; 8: by their corners too.")]
Simplify = Annotated[float, Option(help="Straighten outlines within METRES; shared borders stay shared.")]
Smooth = Annotated[bool, Option("--smooth", help="Round the corners of outlines; shared borders stay shared.")]
FillHoles = Annotated[
    bool, Option("--fill-holes", help="Leave out the holes of polygons; what lies in them is covered twice.")
]
Dissolve = Annotated[bool, Option("--dissolve", help="Write one multipolygon for each class.")]
Points = Annotated[bool, Option("--points", help="In place of each polygon write a point inside it, for labels.")]
VectorCrs = Annotated[str | None, Option(help="Write in this CRS, as EPSG:4326.", show_default="the map's")]
