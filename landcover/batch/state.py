"""What became of each scene, in an SQLite file beside the outputs, so that the next run does only what is left.

It is the client's alone. What it does not know yet, because the client died, the scenes' own folders tell the workers.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from filelock import FileLock, Timeout

from landcover.errors import BatchError, LandcoverError
from landcover.outputs import disk_errors

FOLDER = ".landcover"
_FILE = "batch.sqlite"


@dataclass(frozen=True)
class Record:
    """What became of a scene.

    Attributes:
        name: of its outputs.
        digest: of all that they depend on.
        state: "begun", "done" or "failed".
        source: the scene.
        datetime: when it was taken, ISO 8601; "" if unknown.
        pixels, seconds: mapped, and the work it took, all attempts and parts together.
        worker: who finished it.
        attempts: how often it was tried in the last run.
        error: a sentence, where it failed.
        finished: when, ISO 8601 in UTC.
        part_rows, parts: how it was cut, where it was.
    """

    name: str
    digest: str
    state: str
    source: str
    datetime: str = ""
    pixels: int = 0
    seconds: float = 0.0
    worker: str = ""
    attempts: int = 0
    error: str = ""
    finished: str = ""
    part_rows: int = 0
    parts: int = 0


@dataclass(frozen=True)
class Made:
    """One thing that was made of all maps together.

    Attributes:
        files: there may be several.
        notes: what the person should know of it.
    """

    files: list[str]
    notes: list[str]


_COLUMNS = ", ".join(f.name for f in fields(Record))
_PLACES = ", ".join("?" for _ in fields(Record))


class State:
    """The open file."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def records(self) -> dict[str, Record]:
        """What is known, by name."""
        with self._told():
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM scenes").fetchall()
        return {row[0]: Record(*row) for row in rows}

    def save(self, records: Iterable[Record]) -> None:
        """Keep records, all or none, in place of those of the same names."""
        with self._told(), self._connection:
            rows = map(astuple, records)
            self._connection.executemany(f"INSERT OR REPLACE INTO scenes ({_COLUMNS}) VALUES ({_PLACES})", rows)

    def made(self, out: Path, digest: str) -> Made | None:
        """What was made of all maps together, if of the same maps, and is still there; None if not."""
        with self._told():
            found = self._connection.execute(
                "SELECT files, notes FROM made WHERE what = ? AND digest = ?", (out.name, digest)
            ).fetchone()
        if not found:
            return None
        files = [out.with_name(Path(file).name) for file in json.loads(found[0])]  # wherever the folder is now
        return Made([str(f) for f in files], json.loads(found[1])) if all(f.exists() for f in files) else None

    def save_making(self, out: Path) -> None:
        """Keep that a file is about to be made of all maps together, so that it is known for one that was."""
        self.save_made(out, "", Made([], []))

    def save_made(self, out: Path, digest: str, made: Made) -> None:
        """Keep what was made of all maps together."""
        with self._told(), self._connection:
            row = (out.name, digest, json.dumps(made.files), json.dumps(made.notes))
            self._connection.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?)", row)

    def made_of_others(self, maps: str) -> set[str]:
        """Names of what was made of other maps, so that its digest does not begin with that of these."""
        with self._told():
            rows = self._connection.execute("SELECT what FROM made WHERE instr(digest, ?) != 1", (maps,)).fetchall()
        return {name for (name,) in rows}

    def files_made(self) -> set[str]:
        """Names of all that was made of all maps together, in this run or before, or was begun."""
        with self._told():
            rows = self._connection.execute("SELECT what, files FROM made").fetchall()
        return {name for what, files in rows for name in (what, *(Path(f).name for f in json.loads(files)))}

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as e:
            raise BatchError(
                f"{self._path} cannot be used: {e}; make its folder writable, or delete it, "
                "and finished scenes are found again"
            ) from e


@contextmanager
def open_state(out: Path) -> Iterator[State]:
    """Open what is known of a batch's folder, which is made if need be, and keep other batches out of it.

    Where the block fails before there is a record, what was made for it goes again.

    Raises:
        OutputError: the folder cannot be written.
        BatchError: another batch is at work in it, or what is known of it cannot be read.
    """
    folder = out / FOLDER
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with disk_errors(out):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as e:
            raise BatchError(f"another batch is at work in {out}; wait for it, or choose another --out") from e
    try:
        with closing(_connect(folder / _FILE)) as connection:
            state = State(connection, folder / _FILE)
            with state._told():
                connection.execute(f"CREATE TABLE IF NOT EXISTS scenes ({_COLUMNS}, PRIMARY KEY (name))")
                connection.execute("CREATE TABLE IF NOT EXISTS made (what PRIMARY KEY, digest, files, notes)")
            yield state
    except LandcoverError:
        _withdraw(out, made)
        raise
    finally:
        lock.release()


def _withdraw(out: Path, made: list[Path]) -> None:
    """Remove what was made for a batch that was refused, the innermost folder first, unless something came of it.

    Where open files cannot be removed, as the lock is, they stay.
    """
    with suppress(OSError, LandcoverError):
        if not known_records(out):
            for name in (_FILE, "lock"):
                (out / FOLDER / name).unlink(missing_ok=True)
            if made:
                shutil.rmtree(out / FOLDER)
            for path in made[1:]:
                path.rmdir()


def known_records(out: Path) -> dict[str, Record]:
    """What is known of a batch's folder, to look at; nothing if there is none."""
    with _look_at(out) as state:
        return state.records() if state else {}


def known_files(out: Path) -> set[str]:
    """As `State.files_made`, to look at; nothing if nothing is known."""
    with _look_at(out) as state:
        return state.files_made() if state else set()


@contextmanager
def _look_at(out: Path) -> Iterator[State | None]:
    path = out / FOLDER / _FILE
    if not path.exists():
        yield None
        return
    with closing(_connect(path)) as connection:
        yield State(connection, path)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path)
    except sqlite3.Error as e:
        raise BatchError(f"{path} cannot be opened: {e}; is the disk full, or the folder read-only?") from e
