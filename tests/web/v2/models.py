"""Models and tasks whose inputs and outputs have names."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from batchserve.errors import InvalidInput
from batchserve.tasks.base import Task
from batchserve.tasks.padding import pad_stack
from batchserve.tasks.tensors import TensorSpec


class Several(nn.Module):
    """Numbers to a mapping: twice themselves, whether they are positive, and their sum."""

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"double": 2 * batch, "positive": batch > 0, "sum": batch.sum(dim=1)}


class Pair(nn.Module):
    """Numbers to a tuple of themselves and their squares."""

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        return batch, batch * batch


class Complex(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return torch.complex(batch, batch)


class MaskedSum(nn.Module):
    """The sum of the tokens that the mask lets through."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (input_ids * attention_mask).sum(dim=1)


class Tokens(Task):
    """Token ids and a mask, as text models have them; in JSON, a pair of lists."""

    Input: ClassVar[Any] = tuple[list[int], list[int]]
    Output: ClassVar[Any] = int

    def input_specs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("input_ids", "INT64", (-1,)),
            TensorSpec("attention_mask", "INT64", (-1,)),
        )

    def payloads(self, tensors: Any) -> list[Any]:
        ids, masks = tensors["input_ids"], tensors["attention_mask"]
        if ids.shape != masks.shape:
            raise InvalidInput("they differ in shape")
        return list(zip(ids.tolist(), masks.tolist(), strict=True))

    def decode(self, payload: Any) -> Tensor:
        return torch.tensor(payload)

    def collate(self, items: Any) -> dict[str, Tensor]:
        batch = pad_stack([item.T for item in items], max(item.shape[1] for item in items))
        return {"input_ids": batch[..., 0], "attention_mask": batch[..., 1]}

    def encode(self, row: Tensor, parameters: Any) -> Any:
        return row.item()


class Characters(Task):
    """A text to its characters' codes: rows of whatever length the text has."""

    Input: ClassVar[Any] = str
    Output: ClassVar[Any] = list[float]

    def decode(self, payload: str) -> Tensor:
        return torch.tensor([ord(letter) for letter in payload], dtype=torch.float32)

    def encode(self, row: Tensor, parameters: Any) -> Any:
        return row.tolist()

    def example(self) -> Tensor:
        return self.decode("example")
