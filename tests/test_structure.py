"""The ranks of the modules and the borders of third-party packages: each imports only from ranks below its own."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "landcover"

RANKS = [
    {"errors", "accuracy"},
    {"processors"},
    {"grid", "specs", "pipeline", "outputs", "products", "ground", "antimeridian"},
    {"scaling", "blend", "provenance", "regions", "bands", "recipes", "footprints"},
    {"plausibility", "scene", "classmap", "cog", "weights", "network", "chips", "synthetic", "outlines"},
    {"journal", "models", "engines", "sieve", "features"},
    {"pretrained", "items", "vectorfiles"},
    {"selection"},
    {"catalog"},
    {"planning", "vectorization", "stats", "sampling", "preview", "export"},
    {"prediction", "mosaic", "assessment"},
    {"inspection", "training", "batch", "report"},
    {"cli"},
    {"__main__"},
]

BORDERS = {
    "torch": {"network", "weights", "engines", "models", "inspection", "training", "export", "cli"},
    "openvino": {"engines", "export"},
    "segmentation_models_pytorch": {"network", "engines", "training"},
    "geopandas": {"vectorization", "regions", "stats", "assessment", "training"},
    "typer": {"cli"},
    "rich": {"cli"},
    "numba": {"outlines", "sieve"},
    "pystac": {"catalog"},
    "dask": {"batch"},
    "distributed": {"batch"},
}


@cache
def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, list[Path]]:
    """Each module or sub-package of the package, with its files."""
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def test_every_module_has_a_rank() -> None:
    assert set(modules()) == set().union(*RANKS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_from_lower_ranks(name: str) -> None:
    rank = next(i for i, names in enumerate(RANKS) if name in names)
    allowed = set().union(*RANKS[:rank], {name}) | {"__version__"}
    for path in modules()[name]:
        own = {m.split(".")[1] for m in imports(path) if m.startswith("landcover.")} - {"main"}
        assert own <= allowed, f"{path.name} imports {own - allowed}"


@pytest.mark.parametrize("package", sorted(BORDERS))
def test_third_party_packages_stay_within_their_borders(package: str) -> None:
    users = {n for n, paths in modules().items() for p in paths if package in {m.split(".")[0] for m in imports(p)}}
    assert users <= BORDERS[package]


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, landcover, landcover.cli; "
        "heavy = {'torch', 'rasterio', 'geopandas', 'numpy', 'openvino', 'dask', 'distributed', 'pydantic'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
