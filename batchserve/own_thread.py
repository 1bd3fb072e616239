"""A thread for one long piece of work, which leaves no other threads behind.

OpenMP keeps the threads with which a thread has shared work for as long as that one lives. Once a
process has more of them than cores, libgomp's threads hardly wait for each other any more before
they go to sleep (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html), and are woken
for each layer: a pass of an EfficientNet on two threads took 2.4 times as long here, only because
the model had been loaded on another thread.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")


def keep_to_one_core() -> None:
    """Have this thread share no work, whatever others were told; a pass says what it uses."""
    torch.set_num_threads(1)


async def in_own_thread(function: Callable[[], R], name: str) -> R:
    """Return the function's result, computed by a thread that then ends.

    Args:
        function: may take its time. If nobody waits for it any more, it goes on nevertheless.
        name: of the thread.
    """
    _outlive_threads()
    threads = ThreadPoolExecutor(1, name, keep_to_one_core)
    context = contextvars.copy_context()
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, context.run, function)
    finally:
        threads.shutdown(wait=False)


def _outlive_threads() -> None:
    """Have what torch keeps belong to this thread, which does not end.

    Until 2.12, a torch built for CUDA that finds no GPU has something else stand in for one, once a
    program is loaded or compiled. It was the thread's that did so first, and freed with it: the
    next one to load or compile ended the process.
    """
    if torch.__version__ < "2.12":
        torch._C._ensureCUDADeviceGuardSet()  # noqa: SLF001
