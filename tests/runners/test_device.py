"""A device when something went wrong."""

import threading

import pytest
import torch

from batchserve.runners.device import RECORDING, answers, give_memory_back, ran_out_of_memory


def test_the_text_of_the_real_allocator_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert ran_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("we ran out of memory of what this model is for"),
    ],
)
def test_other_errors_are_others(error):
    assert not ran_out_of_memory(error)


@pytest.mark.parametrize(("name", "there"), [("cpu", True), ("meta", False)])
def test_whether_a_device_answers(name, there):
    assert answers(torch.device(name)) is there


def test_a_full_device_is_not_gone(monkeypatch):
    def ones(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", ones)
    assert answers(torch.device("cuda"))


def test_the_cache_of_the_device_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    for name in ("cpu", "cuda", "mps"):
        give_memory_back(torch.device(name))
    assert emptied == ["cuda", "mps"]


def test_while_something_is_recorded_no_memory_is_given_back(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(RECORDING.locked()))
    thread = threading.Thread(target=give_memory_back, args=(torch.device("cuda"),))
    with RECORDING:
        thread.start()
        assert not emptied
    thread.join()
    assert emptied == [True]
