"""A bounded pool of threads for decoding, so that neither the loop nor the cores are swamped."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class DecodePool:
    """Runs what would block the event loop for longer than a hand-over costs (about 100 µs).

    Its queue needs no bound of its own: every request in it holds a place in a batcher's.

    Args:
        threads: how many inputs are decoded at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
