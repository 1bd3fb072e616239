"""The decode pool runs off the loop, and never more at once than it has threads."""

import asyncio
import threading

import pytest

from batchserve.decoding import DecodePool


async def test_it_leaves_the_loops_thread():
    pool = DecodePool(1)
    assert await pool.run(threading.current_thread) is not threading.current_thread()
    pool.close()


async def test_arguments_and_exceptions_come_through():
    pool = DecodePool(1)
    assert await pool.run(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    pool.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
async def test_it_is_bounded(threads):
    pool = DecodePool(threads)
    gate = threading.Barrier(threads, timeout=10)
    running, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1
        gate.wait()

    await asyncio.gather(*(pool.run(work) for _ in range(3 * threads)))
    assert most == threads
    pool.close()
