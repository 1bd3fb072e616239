"""The decode pool runs off the loop, and never more at once than it has threads."""

import asyncio
import threading

import pytest

from batchserve.decoding import CodecPool


async def test_it_leaves_the_loops_thread():
    pool = CodecPool(1)
    assert (await pool.decode(threading.current_thread)).name == "decode_0"
    assert (await pool.encode(threading.current_thread)).name == "encode_0"
    pool.close()


async def test_answers_do_not_wait_behind_new_work():
    pool = CodecPool(1)
    gate = threading.Event()
    decoding = asyncio.create_task(pool.decode(gate.wait, timeout=60))
    assert await pool.encode(int, "7") == 7
    assert not decoding.done()
    gate.set()
    await decoding
    pool.close()


async def test_arguments_and_exceptions_come_through():
    pool = CodecPool(1)
    assert await pool.decode(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await pool.decode(divmod, 1, 0)
    pool.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
async def test_it_is_bounded(threads):
    pool = CodecPool(threads)
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

    await asyncio.gather(*(pool.decode(work) for _ in range(3 * threads)))
    assert most == threads
    pool.close()
