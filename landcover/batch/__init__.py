"""Many scenes at once: planned from a catalog, mapped by the workers of a Dask cluster, and gathered."""

from landcover.batch.options import BatchOptions
from landcover.batch.run import Begun, Event, Summary, foresee, run_batch
from landcover.batch.schedule import Told
from landcover.batch.state import Record

__all__ = ["BatchOptions", "Begun", "Event", "Record", "Summary", "Told", "foresee", "run_batch"]
