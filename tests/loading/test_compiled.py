"""Of several workers that compile the same model, one does it first."""

import threading
from pathlib import Path

import pytest

from batchserve.loading import one_compiles, stop_compiling


@pytest.fixture
def config(configure, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return configure(source="tests.loading.models:Small", compile=True).models[0]


def compiling(config, entered: threading.Event) -> threading.Thread:
    def work() -> None:
        with one_compiles(config):
            entered.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_second_waits_for_the_first_and_the_third_finds_it_done(config, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr("batchserve.loading.cache.logger.info", lambda *_args: waiting.set())
    second, third = threading.Event(), threading.Event()
    with one_compiles(config):
        thread = compiling(config, second)
        assert waiting.wait(30)
        assert not second.is_set()
    thread.join()
    assert second.is_set()
    with one_compiles(config):
        compiling(config, third).join()
    assert third.is_set()


def test_what_failed_is_not_taken_for_done(config):
    with pytest.raises(ZeroDivisionError), one_compiles(config):
        raise ZeroDivisionError
    waits = threading.Event()
    with one_compiles(config):
        thread = compiling(config, waits)
        assert not waits.wait(0.05)
    thread.join()


def test_two_configurations_of_a_model_do_not_wait_for_each_other(config):
    entered = threading.Event()
    with one_compiles(config):
        compiling(config.model_copy(update={"channels_last": True}), entered).join()
    assert entered.is_set()


def test_where_nothing_is_compiled_nobody_waits(config):
    entered = threading.Event()
    plain = config.model_copy(update={"compile": False})
    with one_compiles(plain):
        compiling(plain, entered).join()
    assert entered.is_set()


def test_what_was_not_begun_is_not_compiled_after_an_interruption():
    from torch._inductor.async_compile import AsyncCompile, get_compile_threads  # noqa: PLC0415

    if get_compile_threads() <= 1:
        pytest.skip("torch compiles in no threads of its own here")
    release = threading.Event()
    pool = AsyncCompile.pool()
    begun = [pool.submit(release.wait, 30) for _ in range(get_compile_threads())]
    waiting = pool.submit(release.wait, 30)
    stop_compiling()
    assert waiting.cancelled()
    release.set()
    assert all(one.result() for one in begun)
    assert AsyncCompile.pool() is not pool
