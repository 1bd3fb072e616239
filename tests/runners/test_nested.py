"""Tensors in tuples, lists and mappings."""

import torch

from batchserve.runners.nested import mapped, tensors_in

NESTED = {"a": torch.tensor(1), "b": [torch.tensor(2), (torch.tensor(3), None)], "c": "text"}


def test_each_tensor_is_replaced_and_the_rest_stays():
    assert mapped(lambda tensor: tensor + 1, NESTED) == {"a": 2, "b": [3, (4, None)], "c": "text"}


def test_all_tensors_are_found_in_order():
    assert [tensor.item() for tensor in tensors_in(NESTED)] == [1, 2, 3]
