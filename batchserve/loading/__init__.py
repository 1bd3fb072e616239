"""From a config's `source` to a module that is ready to run: one module for each kind of source."""

from batchserve.loading.load import load_module
from batchserve.loading.memory_format import laid_out
from batchserve.loading.place import DTYPES, pick_device, place_module, use_threads
from batchserve.loading.program import largest_batch

__all__ = [
    "DTYPES",
    "laid_out",
    "largest_batch",
    "load_module",
    "pick_device",
    "place_module",
    "use_threads",
]
