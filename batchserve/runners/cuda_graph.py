"""Has CUDA record what a function does on the device.

It has not been run on a GPU yet: it follows what torch says of
[its graphs](https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from batchserve.runners.device import RECORDING
from batchserve.runners.graphs import Record, Replay

logger = logging.getLogger(__name__)

# Before recording, libraries choose their kernels, and take the memory that they keep.
WARM_UPS = 3
# torch hands out 32 streams of a priority in turn, so that sooner or later two have the same one.
# What another model did on it would be recorded, too; passes have streams of priority 0.
PRIORITY = -1
# In torch 2.11, its allocator points to these for ever (see `recordable.py`).
FAILED: list[torch.cuda.CUDAGraph] = []


class RecordingBroke(Exception):
    """torch's allocator was left unusable; only a new process helps."""


class CudaRecorder:
    """Records functions that share their memory, as only one of them is replayed at a time.

    Args:
        device: of CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        # Warm-up and recording on one stream, as libraries keep things for each.
        self._stream = torch.cuda.Stream(  # type: ignore[no-untyped-call]
            device, priority=PRIORITY
        )
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, Replay]:
        """Run a function some times, then record it.

        Raises:
            RecordingBroke: it failed, and nothing more will work.
            Exception: it failed, and the process is as it was.
        """
        with RECORDING:
            # What is queued so far may be what the function reads.
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            # Also where torch 2.11 does not return to the stream after a failure.
            with torch.cuda.stream(self._stream):
                self._warm_up(function)
                return self._recorded(function)

    def _warm_up(self, function: Callable[[], Any]) -> None:
        try:
            for _ in range(WARM_UPS):
                function()
        finally:
            self._stream.synchronize()

    def _recorded(self, function: Callable[[], Any]) -> tuple[Any, Replay]:
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            # Other threads serve other models meanwhile, and may.
            capture_error_mode="thread_local",
        )
        try:
            with recording:
                output = function()
        except Exception as error:
            self._clean_up_after(graph, error)
            raise
        return output, graph.replay

    def _clean_up_after(self, graph: torch.cuda.CUDAGraph, error: Exception) -> None:
        FAILED.append(graph)
        try:
            graph.reset()
            torch.cuda.empty_cache()
        except RuntimeError:
            self._end_allocating()
            try:
                torch.cuda.empty_cache()
            except RuntimeError:
                raise RecordingBroke(
                    f"recording a CUDA graph failed ({error}), and torch {torch.__version__} does "
                    f"not recover from that; set cuda_graphs: false, or install a newer torch"
                ) from error

    def _end_allocating(self) -> None:
        """Do what torch left out, with what its own memory pools are made of."""
        index = self._stream.device.index
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)  # noqa: SLF001
            torch._C._cuda_releasePool(index, self._pool)  # noqa: SLF001


def recorder_for(device: torch.device) -> Record | None:
    """Return what records for a device; None: nothing does."""
    if device.type != "cuda":
        return None
    try:
        return CudaRecorder(device)
    except Exception as error:  # noqa: BLE001 - whatever it is, a pass works without
        logger.warning("%s: CUDA graphs cannot be recorded: %s", device, error)
        return None
