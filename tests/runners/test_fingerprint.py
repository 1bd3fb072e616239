"""An input is known again by its content, whatever it looks like in memory."""

import pytest
import torch

from batchserve.runners.fingerprint import fingerprint

PLAIN = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.zeros(3, 0),
        torch.tensor(1.5),
        torch.tensor([1.5]).expand(1, 1),
        torch.tensor([1.5]).expand(4),
        torch.from_numpy(torch.zeros(5).numpy()[:0]),
        torch.as_strided(torch.tensor([1.5]), (1,), (0,)),
        torch.as_strided(torch.tensor([1.5]), (0,), (0,)),
        PLAIN.T,
        PLAIN[:, ::2],
        PLAIN.to(torch.bfloat16),
        PLAIN.to(torch.bool),
    ],
)
def test_any_tensor_has_one(tensor):
    assert fingerprint(tensor) == fingerprint(tensor.clone())


def test_other_content_shapes_and_dtypes_have_others():
    tensors = [PLAIN, PLAIN + 1, PLAIN.reshape(3, 2), PLAIN.to(torch.int32), torch.zeros(0)]
    assert len({fingerprint(tensor) for tensor in tensors}) == len(tensors)
