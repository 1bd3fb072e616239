"""Which modules of the standard library a Python file will want next, given what it has."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from batchserve.errors import InvalidInput, LoadError
from batchserve.tasks.base import Parameters, Task

VOCABULARY = Path(__file__).parent / "trained" / "modules.json"
KINDS = ("module", "package", "test")


class SourceFile(BaseModel):
    """A row of the table: one categorical column, two of numbers, and a set of items."""

    kind: Literal["module", "package", "test"]
    lines: int = Field(ge=1, le=1_000_000)
    classes: int = Field(0, ge=0, le=1_000_000)
    imports: list[str] = Field(description="Modules of the standard library that it imports.")


class Recommendation(BaseModel):
    """A module that the file does not import yet."""

    module: str
    score: float = Field(description="How likely it is the next; all scores sum to 1.")


class TopK(Parameters):
    """What the query string may say."""

    top_k: int = Field(5, ge=1, description="How many to recommend, best first.")


class NextModule(Task):
    """A file in, modules that fit it out.

    An item is one float32 row: the kind's number, two logarithms, and 1 for each imported module.

    Args:
        modules: names, in the order of the model's columns; None: as `train.py` wrote them.
    """

    Input = SourceFile
    Output = list[Recommendation]
    Parameters = TopK
    fixed_shape = True
    inline_bytes = 4096  # decoding takes less than handing it to a thread would

    def __init__(self, modules: list[str] | None = None) -> None:
        self.modules = vocabulary() if modules is None else modules
        self.column = {module: i for i, module in enumerate(self.modules)}

    def decode(self, payload: SourceFile) -> Tensor:
        row = torch.zeros(3 + len(self.modules))
        row[0] = KINDS.index(payload.kind)
        row[1:3] = torch.tensor([payload.lines, payload.classes]).log1p()
        for module in payload.imports:
            if module not in self.column:
                raise InvalidInput(
                    f"imports: {module!r} is none of the {len(self.modules)} modules that the "
                    f"model knows; leave it out"
                )
            row[3 + self.column[module]] = 1
        return row

    def preprocess(self, batch: Tensor) -> dict[str, Tensor]:
        # Not in the module: what is a float then is rounded to the model's precision.
        return {"kind": batch[:, 0].long(), "numbers": batch[:, 1:3], "imports": batch[:, 3:]}

    def postprocess(self, output: Tensor) -> Tensor:
        return output.softmax(dim=1)

    def encode(self, row: Tensor, parameters: TopK) -> list[dict[str, Any]]:
        best = row.topk(min(parameters.top_k, len(row)))
        ranked = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            {"module": self.modules[i], "score": round(score, 4)}
            for i, score in ranked
            if score > 0
        ]

    def example(self) -> Tensor:
        return self.decode(SourceFile(kind="module", lines=200, classes=2, imports=[]))


class Recommender(nn.Module):
    """Two towers: a file's vector, and one for each module; their products say how well they fit.

    Returns logits of shape (n, modules), minus infinity for those that the file imports already.
    """

    def __init__(self, modules: int, size: int = 32) -> None:
        super().__init__()
        self.kind = nn.Embedding(len(KINDS), size)
        self.numbers = nn.Linear(2, size)
        self.imports = nn.Linear(modules, size, bias=False)
        self.candidates = nn.Linear(size, modules)

    def forward(self, kind: Tensor, numbers: Tensor, imports: Tensor) -> Tensor:
        count = imports.sum(dim=1, keepdim=True).clamp(min=1)
        file = self.kind(kind) + self.numbers(numbers) + self.imports(imports) / count.sqrt()
        logits: Tensor = self.candidates(file)
        return logits.masked_fill(imports > 0, -torch.inf)


def recommender() -> Recommender:
    """Return the model as `train.py` shaped it, for the server to load the weights into."""
    return Recommender(len(vocabulary()))


def vocabulary() -> list[str]:
    if not VOCABULARY.exists():
        raise LoadError(f"{VOCABULARY} is not there; train.py, beside it, writes it in seconds")
    modules: list[str] = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    return modules
