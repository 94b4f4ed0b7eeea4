"""What people type, turned into values; a mistake is one sentence."""

from landcover.errors import ConfigError


def parse_bands(texts: list[str] | None) -> dict[str, str] | None:
    """Read "red=4,nir=8", or several of the kind, as common name → number or label.

    Raises:
        ConfigError: a part is not NAME=BAND, or a name occurs twice.
    """
    if not texts:
        return None
    text = ",".join(texts)
    bands: dict[str, str] = {}
    for part in text.split(","):
        name, equals, band = (s.strip() for s in part.partition("="))
        if not (name and equals and band):
            raise ConfigError(f"--bands '{text}': '{part}' is not NAME=BAND; write for example --bands red=4,nir=8")
        if name in bands:
            raise ConfigError(f"--bands '{text}' names '{name}' twice")
        bands[name] = band
    return bands


def parse_area(text: str) -> float:
    """Read "500" or "0.5ha" as square metres.

    Raises:
        ConfigError: it is neither.
    """
    number = text.strip().lower()
    unit = next((u for u in ("ha", "m²", "m2") if number.endswith(u)), "")
    try:
        area = float(number.removesuffix(unit)) * (1e4 if unit == "ha" else 1.0)
    except ValueError:
        area = -1.0
    if not 0 <= area < float("inf"):
        raise ConfigError(f"--min-area '{text}' is not an area; write 500 for square metres, or 0.5ha for hectares")
    return area


def parse_classes(texts: list[str] | None) -> tuple[str, ...] | None:
    """Read "forest,water", or several of the kind, as names.

    Raises:
        ConfigError: there is none in it.
    """
    if not texts:
        return None
    text = ",".join(texts)
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if not names:
        raise ConfigError(f"--classes '{text}' names no class; write for example --classes forest,water")
    return names
