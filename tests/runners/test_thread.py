"""One thread for the passes, which outlives their failures and which no process waits for."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest
import pytest_asyncio
import torch
from torch import Tensor, nn

from batchserve.runners.forward import Forward
from batchserve.runners.thread import ThreadRunner
from batchserve.tasks.tensor import TensorTask
from tests.conftest import ROOT
from tests.models import Double

ITEM = torch.ones(3)


class Held(nn.Module):
    """Each pass waits, on its thread, until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.threads.append(threading.current_thread())
        self.started.release()
        self.gate.acquire()
        return batch

    async def wait_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, batch: Tensor) -> Tensor:
        raise self.error


def runner_of(module: nn.Module) -> ThreadRunner:
    return ThreadRunner(Forward(module, TensorTask(), torch.device("cpu"), torch.float32))


@pytest_asyncio.fixture(autouse=True)
async def _complaints() -> AsyncIterator[None]:
    """Fail if anything is left for the loop, or for a thread, to complain about."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    threading.excepthook, before = complaints.append, threading.excepthook
    yield
    gc.collect()
    threading.excepthook = before
    assert not complaints


async def test_passes_run_on_one_daemon_thread_of_their_own():
    module = Held()
    module.gate.release(3)
    runner = runner_of(module)
    for number in range(3):
        (row,) = await runner.forward([ITEM * number])
        assert row.tolist() == [number] * 3
    assert len(set(module.threads)) == 1
    thread = module.threads[0]
    assert (thread.name, thread.daemon) == ("forward", True)
    runner.close()


def runner_of_streams(module: nn.Module, streams: int) -> ThreadRunner:
    forward = Forward(module, TensorTask(), torch.device("cpu"), torch.float32)
    forward.streams, forward.threads, forward.all_threads = streams, 1, 2
    return ThreadRunner(forward)


async def test_streams_compute_at_the_same_time_each_on_a_thread():
    module = Held()
    runner = runner_of_streams(module, 2)
    assert (runner.streams, runner.queues) == (2, False)
    passes = [asyncio.create_task(runner.forward([ITEM * number])) for number in range(2)]
    for _ in passes:
        await module.wait_started()
    assert len(set(module.threads)) == 2
    module.gate.release(2)
    rows = [row.tolist() for (row,) in await asyncio.gather(*passes)]
    assert rows == [[0.0] * 3, [1.0] * 3]
    runner.close()
    for thread in module.threads:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()


async def test_a_stream_that_is_free_is_taken_though_a_waiter_has_left():
    module = Held()
    runner = runner_of_streams(module, 2)
    first, second = (asyncio.create_task(runner.forward([ITEM])) for _ in range(2))
    for _ in range(2):
        await module.wait_started()
    module.gate.release()
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    third = asyncio.create_task(runner.forward([ITEM]))
    await module.wait_started()
    module.gate.release(2)
    await asyncio.gather(first, second, third)
    runner.close()


async def test_who_has_all_cores_is_always_on_the_same_thread():
    class Threads(Held):
        def __init__(self) -> None:
            super().__init__()
            self.counts: list[int] = []

        def forward(self, batch: Tensor) -> Tensor:
            self.counts.append(torch.get_num_threads())
            return super().forward(batch)

    module = Threads()
    module.gate.release(6)
    runner = runner_of_streams(module, 3)
    for all_cores in (True, False) * 3:
        await runner.forward([ITEM], all_cores=all_cores)
    assert module.counts == [2, 1] * 3
    assert len({*module.threads[::2]}) == 1
    runner.close()


async def test_the_loop_goes_on_during_a_pass():
    module = Held()
    runner = runner_of(module)
    waiter = asyncio.create_task(runner.forward([ITEM]))
    await module.wait_started()
    assert not waiter.done()
    module.gate.release()
    assert len(await waiter) == 1
    runner.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ZeroDivisionError(), ZeroDivisionError),
        (SystemExit(1), RuntimeError),
        # A coroutine cannot raise this one; asyncio could not even put it into a future.
        (StopIteration(), RuntimeError),
    ],
)
async def test_whatever_a_pass_raises_comes_through_and_the_thread_lives(error, kind):
    runner = runner_of(Raises(error))
    for _ in range(2):
        with pytest.raises(kind):
            await runner.forward([ITEM])
    runner.close()


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
async def test_a_waiter_who_has_left_disturbs_nobody(error):
    module = Held()
    runner = runner_of(module)
    if error is not None:
        module.register_forward_hook(lambda *_: (_ for _ in ()).throw(error))
    waiter = asyncio.create_task(runner.forward([ITEM]))
    await module.wait_started()
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    module.gate.release(2)
    with pytest.raises(ZeroDivisionError) if error else nullcontext():
        assert len(await runner.forward([ITEM])) == 1
    runner.close()


async def test_the_next_pass_begins_though_the_loop_has_no_time():
    module = Held()
    runner = runner_of(module)
    waiters = [asyncio.create_task(runner.forward([ITEM])) for _ in range(2)]
    await module.wait_started()
    module.gate.release(2)
    assert module.started.acquire(
        timeout=10
    )  # on the loop's own thread, which so does nothing else
    await asyncio.gather(*waiters)
    runner.close()


async def test_a_pass_that_nobody_waits_for_any_more_is_not_begun():
    module = Held()
    runner = runner_of(module)
    first, second = (asyncio.create_task(runner.forward([ITEM])) for _ in range(2))
    await module.wait_started()
    second.cancel()
    await asyncio.wait([second])
    module.gate.release(2)
    await first
    await runner.forward([ITEM])
    assert len(module.threads) == 2
    runner.close()


async def test_close_waits_for_no_pass_and_the_thread_ends_with_it():
    module = Held()
    runner = runner_of(module)
    waiter = asyncio.create_task(runner.forward([ITEM]))
    await module.wait_started()
    (thread,) = module.threads
    runner.close()
    assert thread.is_alive()
    module.gate.release()
    await waiter
    await asyncio.to_thread(thread.join)
    with pytest.raises(RuntimeError, match="closed"):
        await runner.forward([ITEM])


async def test_a_closed_loop_does_not_end_the_thread():
    module = Held()
    runner = runner_of(module)

    async def leave_early() -> None:
        waiter = asyncio.create_task(runner.forward([ITEM]))
        await module.wait_started()
        waiter.cancel()

    await asyncio.to_thread(asyncio.run, leave_early())
    module.gate.release(2)
    assert len(await runner.forward([ITEM])) == 1
    assert len(set(module.threads)) == 1
    runner.close()


async def test_nothing_of_a_batch_is_held_while_the_next_is_waited_for():
    runner = runner_of(Double())
    item = torch.ones(3)
    rows = await runner.forward([item])
    held = [weakref.ref(item), weakref.ref(rows[0])]
    del item, rows
    # The thread takes up the next pass only after it has let go of this one.
    await runner.forward([ITEM])
    gc.collect()
    assert [one() for one in held] == [None, None]
    runner.close()


HANGS = """
import asyncio, threading, torch
from batchserve.runners.thread import ThreadRunner

started = threading.Event()

def forward(tensors, *, all_cores):
    started.set()
    threading.Event().wait()

forward.streams = 1

async def main():
    runner = ThreadRunner(forward)
    waiter = asyncio.create_task(runner.forward([]))
    await asyncio.to_thread(started.wait)
    waiter.cancel()
    runner.close()

asyncio.run(main())
print("ended")
"""


def assert_ends(script: str, *, said: bytes) -> None:
    """Run a script in a process of its own, which has to end well and to have printed that."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, b"")


def test_a_process_with_a_pass_that_hangs_can_end():
    assert_ends(HANGS, said=b"ended\n")


FREES = """
import asyncio, time
from batchserve.runners.thread import ThreadRunner

class Forward:
    streams = 1

    def __call__(self, tensors, all_cores):
        return []

    def __del__(self):
        time.sleep(0.3)
        print("freed")

async def main():
    runner = ThreadRunner(Forward())
    await runner.forward([])
    runner.close()

asyncio.run(main())
print("over")
"""


def test_a_process_ends_once_a_thread_that_frees_its_model_has():
    assert_ends(FREES, said=b"over\nfreed\n")
