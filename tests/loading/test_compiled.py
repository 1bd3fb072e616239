"""What is compiled; and of several workers that compile the same model, one does it first."""

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

from batchserve.loading import Compiled, one_compiles, stop_compiling
from batchserve.loading.compiled import GRAPHS, compiled


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


ANY = "any"


@pytest.fixture
def graphs(monkeypatch) -> list[tuple[Any, ...]]:
    """The shape of the input of each graph that torch makes, with ANY for what may vary."""
    found: list[tuple[Any, ...]] = []

    def backend(graph: torch.fx.GraphModule, _examples: Any) -> Callable[..., Any]:
        (image,) = (
            node.meta["example_value"]
            for node in graph.graph.find_nodes(op="placeholder")
            if getattr(node.meta["example_value"], "ndim", 0) == 4
        )
        found.append(tuple(size if isinstance(size, int) else ANY for size in image.shape))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    return found


class Brightness(torch.nn.Module):
    """Has no weights, so that an image is the only thing of four dimensions."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


def run(compiled: Compiled, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        images = torch.rand(shape)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(images), images.mean(dim=(1, 2, 3)))


def test_items_of_one_shape_have_a_graph_for_one_and_one_for_any_number(graphs):
    compiled = Compiled(Brightness())
    compiled.compile_what_comes(fixed_shape=True)
    run(compiled, (8, 3, 16, 16), (1, 3, 16, 16), (2, 3, 16, 16), (5, 3, 16, 16))
    assert graphs == [(ANY, 3, 16, 16), (1, 3, 16, 16)]
    compiled.settle()
    run(compiled, (7, 3, 16, 16), (2, 3, 20, 16))
    assert len(graphs) == 2


def test_a_size_apart_has_a_graph_of_its_own_and_the_others_keep_theirs(graphs):
    compiled = Compiled(Brightness())
    compiled.compile_what_comes(fixed_shape=True)
    run(compiled, (8, 3, 16, 16))
    for rows in (2, 3):
        compiled.compile_apart(rows)
        run(compiled, (rows, 3, 16, 16))
    assert graphs == [(ANY, 3, 16, 16), (2, 3, 16, 16), (3, 3, 16, 16)]
    compiled.settle()
    run(compiled, (2, 3, 16, 16), (3, 3, 16, 16), (8, 3, 16, 16), (4, 3, 16, 16))
    assert compiled(images=torch.ones(3, 3, 2, 2)).tolist() == [1, 1, 1]
    assert len(graphs) == 3


@pytest.mark.parametrize("settled", [False, True])
def test_each_batch_goes_to_the_code_of_its_size(graphs, settled):
    compiled = Compiled(Brightness())
    compiled.compile_what_comes(fixed_shape=True)
    compiled.compile_apart(2)
    run(compiled, (8, 3, 16, 16), (2, 3, 16, 16))
    if settled:
        compiled.settle()
    seen: list[tuple[int, bool]] = []
    compiled._apart[2] = replace(
        compiled._apart[2],
        compiling=lambda images: seen.append((len(images), False)),
        settled=lambda images: seen.append((len(images), True)),
    )
    for rows in (1, 2, 3, 2, 8):
        compiled(torch.rand(rows, 3, 16, 16))
    assert seen == [(2, settled)] * 2
    compiled.compile_together(2)
    run(compiled, (2, 3, 16, 16))
    assert len(seen) == 2


def test_what_comes_to_one_model_makes_nothing_vary_in_another(graphs):
    for size in (16, 20):
        compiled = Compiled(Brightness())
        compiled.compile_what_comes(fixed_shape=True)
        run(compiled, (8, 3, size, size), (1, 3, size, size))
    assert graphs == [(ANY, 3, 16, 16), (1, 3, 16, 16), (ANY, 3, 20, 20), (1, 3, 20, 20)]


def test_one_graph_serves_any_number_of_threads(graphs):
    compiled = Compiled(Brightness(), without_python=True)
    compiled.compile_what_comes(fixed_shape=True)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            run(compiled, (8, 3, 16, 16))
    finally:
        torch.set_num_threads(before)
    assert graphs == [(ANY, 3, 16, 16)]


@pytest.mark.parametrize(("fails", "used"), [(False, [True]), (True, [True, False])])
def test_what_cannot_be_called_from_cpp_is_called_from_python(monkeypatch, fails, used):
    from torch._inductor import config as inductor  # noqa: PLC0415 - slow to load

    found = []

    def backend(graph: torch.fx.GraphModule, _examples: Any) -> Callable[..., Any]:
        found.append(inductor.cpp_wrapper)
        assert inductor.cpp.dynamic_threads is inductor.cpp_wrapper
        if fails and inductor.cpp_wrapper:
            raise NotImplementedError("no such operation in C++")
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    made = Compiled(Brightness(), without_python=True)
    made.compile_what_comes(fixed_shape=True)
    run(made, (8, 3, 16, 16))
    assert found == used
    # What was compiled before may be in C++, and fail as such code does.
    made._call = fail_in_cpp
    run(made, (8, 3, 16, 16))


@pytest.mark.parametrize(
    ("module", "device", "without"),
    [
        (torch.nn.Conv2d(3, 4, 3), "cpu", True),
        (torch.nn.Conv2d(3, 4, 3), "cuda", False),
        (torch.nn.Linear(3, 4), "cpu", False),
        # A number out of range would end the process.
        (torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Conv2d(3, 4, 3)), "cpu", False),
    ],
)
def test_convolutions_without_tables_are_called_from_cpp(monkeypatch, module, device, without):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.14.0"))
    made = compiled(module, torch.device(device), torch.float32)
    assert made._without_python is without


def test_a_torch_that_writes_other_cpp_each_time_is_not_asked_to(monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1+cu130"))
    made = compiled(torch.nn.Conv2d(3, 4, 3), torch.device("cpu"), torch.float32)
    assert made._without_python is False


class Fails(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 1 TiB")


def fail_in_cpp(_images: torch.Tensor) -> None:
    raise RuntimeError("aoti_torch_empty_strided(…) API call failed at x.main.cpp, line 9")


def test_code_in_cpp_that_fails_does_not_hide_why():
    made = Compiled(Fails(), without_python=True)
    made._call = fail_in_cpp
    with pytest.raises(torch.OutOfMemoryError, match="1 TiB"):
        made(torch.rand(2, 3, 4, 4))
    well = Compiled(Brightness(), without_python=True)
    well._call = fail_in_cpp
    run(well, (2, 3, 4, 4))


@pytest.mark.parametrize(
    ("without_python", "words"), [(True, "poison"), (False, "API call failed")]
)
def test_what_fails_otherwise_is_not_tried_again(without_python, words):
    def fail(_images: torch.Tensor) -> None:
        raise RuntimeError(words)

    made = Compiled(Brightness(), without_python=without_python)
    made._call = fail
    with pytest.raises(RuntimeError, match=words):
        made(torch.rand(2, 3, 4, 4))


class Weighs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.rand(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) @ self.weights


def test_what_was_compiled_goes_with_its_model_and_that_of_others_stays(graphs):
    made, other = Compiled(Weighs()), Compiled(Weighs())
    for each in (made, other):
        each.compile_what_comes(fixed_shape=True)
        each.compile_apart(2)
        with torch.inference_mode():
            for rows in (8, 2):
                each(torch.rand(rows, 3, 4, 4))
        each.settle()
    weights = weakref.ref(made.module.weights)
    del made, each
    other_is_kept = graphs.copy()
    gc.collect()
    assert weights() is None
    with torch.inference_mode():
        other(torch.rand(8, 3, 4, 4))
        other(torch.rand(2, 3, 4, 4))
    assert graphs == other_is_kept


def test_what_is_settled_for_a_while_compiles_again_afterwards(graphs):
    compiled = Compiled(Brightness())
    compiled.compile_what_comes(fixed_shape=True)
    with compiled.settled():
        run(compiled, (8, 3, 16, 16))
    assert graphs == []
    run(compiled, (8, 3, 16, 16))
    with compiled.settled():
        run(compiled, (5, 3, 16, 16), (1, 3, 16, 16))
    assert graphs == [(ANY, 3, 16, 16)]


def test_there_is_room_for_the_graphs_of_many_models_wherever_they_are_compiled():
    # Settings are those of a thread's context: a model is loaded on one thread, and compiled on
    # another.
    made = compiled(Brightness(), torch.device("cpu"), torch.float32)
    limits = []

    def warm_up() -> None:
        made.compile_what_comes()
        limits.append(torch._dynamo.config.recompile_limit)

    thread = threading.Thread(target=warm_up)
    thread.start()
    thread.join()
    assert limits == [GRAPHS]


def test_items_that_vary_in_shape_share_a_graph(graphs):
    compiled = Compiled(Brightness())
    compiled.compile_what_comes()
    run(compiled, (8, 3, 16, 12), (2, 3, 20, 24), (5, 3, 40, 13))
    assert graphs == [(ANY, ANY, ANY, ANY)]


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
