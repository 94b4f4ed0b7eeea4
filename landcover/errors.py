"""Every error a user can meet: one sentence that says what, where, which value, and what to do."""

from collections.abc import Sequence


class LandcoverError(Exception):
    """The input cannot be used as it is; the message says why and what to do."""


class SceneError(LandcoverError):
    """A scene cannot be opened, read, or placed on the earth."""


class PlaceError(SceneError):
    """A scene says nothing of its place on the earth, or its bands do not share one."""


class NoSceneError(SceneError):
    """A raster is no scene, but what was made of one."""


class EmptyError(SceneError):
    """A scene has no valid pixel where it is to be mapped."""


class ResolutionError(SceneError):
    """The pixels of a scene are far finer or coarser than a model is meant for."""


class BandError(LandcoverError):
    """The bands a model wants, or their scaling, cannot be told from the scene."""


class OtherBandsError(BandError):
    """A model wants other bands than those that the scene has, or is said to have."""


class ModelError(LandcoverError):
    """A model folder is missing, incomplete, altered, or asks for what cannot be honoured."""


class ConfigError(LandcoverError):
    """A sensor, legend or option has an unknown name or an impossible value."""


class CatalogError(LandcoverError):
    """A catalog of scenes cannot be read, or does not say which scenes it means."""


class MapError(LandcoverError):
    """A class map cannot be read as one."""


class SamplesError(LandcoverError):
    """Labelled samples cannot be read, or do not suffice to train on."""


class TrainingError(LandcoverError):
    """Training went wrong, or cannot go on from where it was stopped."""


class DeviceError(LandcoverError):
    """A device cannot do the work."""


class OutputError(LandcoverError):
    """A result cannot be written where it was asked for."""


class BusyError(OutputError):
    """Another run is writing the same result."""


class StaleError(OutputError):
    """What a stopped run has left is that of another run, or cannot be relied on."""


class BatchError(LandcoverError):
    """A batch cannot be run, or cannot go on."""


def check_name(name: object, error: type[LandcoverError]) -> None:
    """Raise `error` if the name of a file is not text, which GDAL cannot open or write."""
    try:
        str(name).encode()
    except UnicodeEncodeError as e:
        raise error(f"the name {str(name)!a} is not written in UTF-8; rename the file or folder") from e


def is_text(value: object) -> bool:
    """Whether all texts in a JSON value can be written; half a character, as JSON allows it, cannot."""
    import json

    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def counted(count: int, noun: str) -> str:
    """Say how many of something there are, as "1 scene" or "2,000 scenes"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], between: str = ", ") -> str:
    """Name the first five of many, and say how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return between.join(names[:5]) + more


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Say which of `known` was probably meant by `name`, as the end of an error sentence."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known are: {', '.join(known)}"
