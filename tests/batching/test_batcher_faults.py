"""What the batcher tells of faults that it contains."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from batchserve.batch import Fault
from batchserve.errors import InternalError, NotReady
from batchserve.runners.base import DeviceLost, OutOfMemory
from batchserve.testing import FakeRunner, GatedRunner, run_virtual
from tests.batching.clients import batching, submit

HANG_S = 5.0


def raising(error: Exception, *, if_any: float) -> FakeRunner:
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        if any(tensor == if_any for tensor in tensors):
            raise error
        return list(tensors)

    return FakeRunner(rows=rows)


def faults_of(runner: FakeRunner, *values: float) -> list[Fault]:
    """Return what is told while these values are served."""
    faults: list[Fault] = []

    async def main() -> None:
        async with batching(runner, on_fault=faults.append, hang_s=HANG_S) as batcher:
            await asyncio.gather(*submit(batcher, *values), return_exceptions=True)

    run_virtual(main)
    return faults


def test_nothing_is_told_of_what_goes_well():
    assert faults_of(FakeRunner(), 1, 2, 3) == []


def test_an_input_is_told_of_once_however_often_its_batch_was_tried():
    assert faults_of(raising(ValueError(), if_any=2), 1, 2, 3, 4) == [Fault.INPUT]


def test_an_items_own_row_may_be_its_fault():
    runner = FakeRunner(rows=lambda tensors: [ValueError("NaN"), *tensors[1:]])
    assert faults_of(runner, 1, 2) == [Fault.INPUT]


def test_each_pass_that_runs_out_of_memory_is_told_of():
    def rows(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        if len(tensors) > 1:
            raise OutOfMemory
        return list(tensors)

    # Of 4 and of 2; then it is known that 2 are too many.
    assert faults_of(FakeRunner(rows=rows), 1, 2, 3, 4) == 2 * [Fault.OUT_OF_MEMORY]


def test_an_item_too_large_for_the_memory_is_at_fault_itself():
    faults = faults_of(raising(OutOfMemory(), if_any=1), 1)
    assert faults == [Fault.OUT_OF_MEMORY, Fault.INPUT]


def test_a_lost_device_is_told_of_once():
    assert faults_of(raising(DeviceLost(), if_any=2), 1, 2) == [Fault.DEVICE_LOST]


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)])
def test_a_pass_that_hangs_is_told_of_once(values):
    assert faults_of(GatedRunner(), *values) == [Fault.HUNG]


@pytest.mark.parametrize("error", [ValueError(), DeviceLost()])
def test_counting_faults_that_fails_hurts_nobody(error):
    def broken(fault: Fault) -> None:
        raise OSError("disk full")

    async def main() -> list[type]:
        runner = raising(error, if_any=2)
        async with batching(runner, on_fault=broken) as batcher:
            answers = await asyncio.gather(*submit(batcher, 1, 2, 3), return_exceptions=True)
            return [type(answer) for answer in answers]

    expected = NotReady if isinstance(error, DeviceLost) else torch.Tensor
    types = run_virtual(main)
    assert (types[0], types[2]) == (expected, expected)
    assert InternalError not in types
