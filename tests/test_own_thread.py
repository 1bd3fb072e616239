"""Long pieces of work run where they end, so that OpenMP's threads end with them."""

import asyncio
import threading

import pytest
import torch
from torch.torch_version import TorchVersion

from batchserve.decoding import CodecPool
from batchserve.own_thread import in_own_thread, keep_to_one_core
from batchserve.repository import ModelRepository


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def names() -> set[str]:
    return {thread.name.split("_")[0] for thread in threading.enumerate()}


async def test_the_thread_ends_with_its_work():
    loop_thread = threading.current_thread()
    thread = await in_own_thread(threading.current_thread, "work")
    assert thread is not loop_thread
    assert thread.name.startswith("work")
    thread.join(5)
    assert not thread.is_alive()


async def test_what_it_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0, "work")


async def test_nobody_waits_for_what_nobody_wants_any_more():
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)

    task = asyncio.create_task(in_own_thread(work, "work"))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (working,) = (thread for thread in threading.enumerate() if thread.name.startswith("work"))
    may_end.set()
    working.join(5)
    assert not working.is_alive()


async def test_threads_that_begin_later_keep_to_one_core():
    keep_to_one_core()
    # As a pass does: torch gives new threads what any thread was told last.
    await asyncio.to_thread(torch.set_num_threads, 2)
    assert await in_own_thread(torch.get_num_threads, "work") == 1


@pytest.mark.parametrize(("version", "kept"), [("2.11.0+cu130", True), ("2.12.0", False)])
async def test_what_torch_keeps_of_the_first_to_compile_is_not_freed_with_it(
    monkeypatch, version, kept
):
    keepers: list[threading.Thread] = []
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(
        torch._C, "_ensureCUDADeviceGuardSet", lambda: keepers.append(threading.current_thread())
    )
    assert await in_own_thread(lambda: len(keepers), "work") == kept
    assert keepers == [threading.current_thread()] * kept


async def test_decoding_keeps_to_one_core_whatever_a_pass_uses():
    torch.set_num_threads(2)
    pool = CodecPool(1)
    assert await pool.decode(torch.get_num_threads) == 1
    assert await pool.encode(torch.get_num_threads) == 1
    pool.close()


async def test_of_loading_and_warming_no_thread_is_left(configure):
    repository = ModelRepository(configure().models, threads=2)
    await repository.load()
    for thread in threading.enumerate():
        if thread.name.startswith(("load", "warm-up")):
            thread.join(5)
    assert not names() & {"load", "warm-up"}
    await repository.close()


async def test_the_loop_leaves_the_cores_to_the_passes(serve):
    torch.set_num_threads(2)
    await serve()
    assert torch.get_num_threads() == 1
