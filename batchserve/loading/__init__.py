"""From a config's `source` to a module that is ready to run: one module for each kind of source."""

from batchserve.loading.batch_norms import Pair, PassWatcher, fold, has_batch_norms
from batchserve.loading.compiled import (
    Compiled,
    has_compiler,
    is_compiled,
    one_compiles,
    remember_compiled,
    stop_compiling,
)
from batchserve.loading.load import load_module
from batchserve.loading.memory_format import has_convolutions, laid_out, lay_out
from batchserve.loading.place import DTYPES, pick_device, place_module
from batchserve.loading.program import largest_batch

__all__ = [
    "DTYPES",
    "Compiled",
    "Pair",
    "PassWatcher",
    "fold",
    "has_batch_norms",
    "has_compiler",
    "has_convolutions",
    "is_compiled",
    "laid_out",
    "largest_batch",
    "lay_out",
    "load_module",
    "one_compiles",
    "pick_device",
    "place_module",
    "remember_compiled",
    "stop_compiling",
]
