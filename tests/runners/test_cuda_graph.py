"""How CUDA is asked to record, and what is done when it fails; torch.cuda is played here."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from batchserve.runners import cuda_graph
from batchserve.runners.cuda_graph import CudaRecorder, RecordingBroke, recorder_for
from batchserve.runners.device import RECORDING

CUDA = torch.device("cuda")


class FakeCuda:
    """Notes what it is asked for; `poisoned` while its allocator is unusable."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.poisoned = False
        self.fails_to_end = False
        self.poisons = False

    def Stream(self, device, priority):  # noqa: N802 - as in torch
        self.log.append(f"stream {priority}")
        return SimpleNamespace(
            device=torch.device("cuda:0"),
            wait_stream=lambda other: self.log.append(f"wait for {other}"),
            synchronize=lambda: self.log.append("synchronize"),
        )

    def CUDAGraph(self):  # noqa: N802 - as in torch
        return SimpleNamespace(
            replay=lambda: self.log.append("replay"), reset=lambda: self.log.append("reset")
        )

    def current_stream(self, device):
        return "the current one"

    @contextmanager
    def stream(self, stream):
        self.log.append("enter")
        yield
        self.log.append("leave")

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert RECORDING.locked()
        self.log.append(f"begin in {pool}, {capture_error_mode}")
        try:
            yield
        finally:
            self.log.append("end")
            if self.fails_to_end:
                self.poisoned = self.poisons
                raise RuntimeError("CUDA error: the capture was invalidated")

    def empty_cache(self):
        self.log.append("empty")
        if self.poisoned:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(cuda_graph, "FAILED", [])
    return fake


def end_allocating(cuda, monkeypatch, *, helps: bool) -> None:
    def end(index, pool):
        cuda.log.append(f"end allocating {index} {pool}")
        cuda.poisoned = not helps

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_releasePool", lambda index, pool: cuda.log.append("release"),
        raising=False,
    )  # fmt: skip


def test_it_warms_up_and_records_on_a_stream_that_no_pass_has(cuda):
    def function():
        cuda.log.append("call")
        return "output"

    output, replay = CudaRecorder(CUDA)(function)
    replay()
    assert output == "output"
    assert cuda.log == [
        "stream -1",
        "wait for the current one",
        "enter",
        *["call"] * 3,
        "synchronize",
        "begin in (0, 7), thread_local",
        "call",
        "end",
        "leave",
        "replay",
    ]


def test_recordings_share_their_memory_and_take_turns(cuda):
    recorder = CudaRecorder(CUDA)
    threads = [threading.Thread(target=recorder, args=(lambda: None,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    marks = [entry for entry in cuda.log if entry == "end" or entry.startswith("begin")]
    assert marks == ["begin in (0, 7), thread_local", "end"] * 4


def failing_in_a_recording(cuda):
    def function():
        if cuda.log[-1].startswith("begin"):
            raise ValueError("operation not permitted when stream is capturing")

    return function


def test_a_failed_warm_up_is_waited_for(cuda):
    def function():
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        CudaRecorder(CUDA)(function)
    assert cuda.log[-1] == "synchronize"
    assert not RECORDING.locked()


@pytest.mark.parametrize("fails_to_end", [False, True])
def test_after_a_failed_recording_the_process_is_as_it_was(cuda, fails_to_end):
    cuda.fails_to_end = fails_to_end
    error = RuntimeError if fails_to_end else ValueError
    with pytest.raises(error) as caught:
        CudaRecorder(CUDA)(failing_in_a_recording(cuda))
    assert cuda.log[-3:] == ["end", "reset", "empty"]
    if fails_to_end:
        assert "not permitted when stream is capturing" in str(caught.value.__context__)
    assert not RECORDING.locked()


def test_what_an_older_torch_leaves_out_is_done_for_it(cuda, monkeypatch):
    cuda.fails_to_end = cuda.poisons = True
    end_allocating(cuda, monkeypatch, helps=True)
    with pytest.raises(RuntimeError, match="invalidated"):
        CudaRecorder(CUDA)(failing_in_a_recording(cuda))
    assert cuda.log[-5:] == ["reset", "empty", "end allocating 0 (0, 7)", "release", "empty"]
    # It points to the graph still.
    assert len(cuda_graph.FAILED) == 1


@pytest.mark.parametrize("knows", [False, True])
def test_where_that_does_not_help_it_says_what_does(cuda, monkeypatch, knows):
    cuda.fails_to_end = cuda.poisons = True
    if knows:
        end_allocating(cuda, monkeypatch, helps=False)
    with pytest.raises(RecordingBroke, match="set cuda_graphs: false, or install a newer torch"):
        CudaRecorder(CUDA)(failing_in_a_recording(cuda))


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_elsewhere_nothing_is_recorded(cuda, name):
    assert recorder_for(torch.device(name)) is None
    assert isinstance(recorder_for(CUDA), CudaRecorder)


def test_where_cuda_gives_no_stream_nothing_is_either(monkeypatch, caplog):
    def no_stream(device, priority):
        raise RuntimeError("CUDA is not there")

    monkeypatch.setattr(torch.cuda, "Stream", no_stream)
    assert recorder_for(CUDA) is None
    assert "CUDA graphs cannot be recorded: CUDA is not there" in caplog.text
