"""For tests: of a task of one's own, of a config over HTTP, and of batching on virtual time."""

from batchserve.testing.runners import FakeRunner, GatedRunner
from batchserve.testing.serving import serving
from batchserve.testing.task_check import check_task
from batchserve.testing.virtual_time import VirtualTimeLoop, run_virtual

__all__ = [
    "FakeRunner",
    "GatedRunner",
    "VirtualTimeLoop",
    "check_task",
    "run_virtual",
    "serving",
]
