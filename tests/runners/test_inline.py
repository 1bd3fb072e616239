"""The pass on the loop's own thread."""

import pytest
import torch

from batchserve.runners.forward import Forward
from batchserve.runners.inline import InlineRunner
from batchserve.tasks.tensor import TensorTask
from tests.models import Double


async def test_a_closed_one_has_let_go_of_the_model():
    runner = InlineRunner(Forward(Double(), TensorTask(), torch.device("cpu"), torch.float32))
    (row,) = await runner.forward([torch.tensor([2.0])])
    assert row.tolist() == [4.0]
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        await runner.forward([torch.tensor([2.0])])
