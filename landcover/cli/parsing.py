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
