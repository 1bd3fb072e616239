"""Threads for decoding and encoding, so that neither the loop nor the cores are swamped."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from batchserve.own_thread import keep_to_one_core

P = ParamSpec("P")
R = TypeVar("R")


class CodecPool:
    """Runs what would block the event loop for longer than a hand-over costs (about 100 µs).

    Decoding is bounded by the batchers: whatever is in its queue holds a place in one of theirs.
    Encoding has a thread of its own, because answers must not wait behind new work.

    Args:
        threads: how many inputs are decoded at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._decoders = ThreadPoolExecutor(threads, "decode", keep_to_one_core)
        self._encoder = ThreadPoolExecutor(1, "encode", keep_to_one_core)

    async def decode(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the function's result, computed by one of the decoding threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, lambda: function(*args, **kwargs))

    async def encode(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the function's result, computed by the encoding thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoder, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._encoder.shutdown(wait=False, cancel_futures=True)
