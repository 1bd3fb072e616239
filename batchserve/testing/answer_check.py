"""From batches to answers, as a server goes that way."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError

from batchserve.mistakes import explained
from batchserve.runners.base import RowFault
from batchserve.runners.forward import Forward
from batchserve.tasks.base import Task
from batchserve.testing.faults import Check, Sample, batch_hint, names, shown


class AnswerCheck(Check):
    """The model and what comes after it: passes, `encode`, and what the answers depend on.

    Args:
        task: to be checked.
        module: in fp32 on the CPU.
        parameters: of the query string.
    """

    def __init__(self, task: Task, module: torch.nn.Module, parameters: BaseModel) -> None:
        super().__init__(task)
        self._forward = Forward(module.eval(), task, torch.device("cpu"), torch.float32)
        self._parameters = parameters

    def answers(self, bucket: Sequence[Sample]) -> list[Any]:
        """Return each item's answer in JSON, all of one pass."""
        items = [sample.item for sample in bucket]
        where = (
            f"on {names(bucket)}, the first of shape {list(items[0].shape)}{batch_hint(bucket)},"
        )
        rows = self.attempt("preprocess, module or postprocess", where, self._forward, items)
        self.kept(bucket, "preprocess", "part of a batch may be tried again, so copy it in collate")
        return [self._answer(sample, row) for sample, row in zip(bucket, rows, strict=True)]

    def same(self, bucket: Sequence[Sample], alone: Mapping[str, Any], tolerance: float) -> None:
        for sample, answer in zip(bucket, self.answers(bucket), strict=True):
            if distance(answer, alone[sample.name]) > tolerance:
                self.fail(
                    "collate or module",
                    f"gives {sample.name} the answer {shown(alone[sample.name])} alone and "
                    f"{shown(answer)} in a batch with {names(bucket)}; a row must depend neither "
                    f"on its neighbours nor on padding, which a mask leaves out",
                )

    def _answer(self, sample: Sample, row: Any) -> Any:
        if isinstance(row, RowFault):
            self.fail("finite_rows", f"is True, and of {sample.name} {row}")
        encode, parameters = self.task.encode, self._parameters
        output = self.attempt("encode", f"on {sample.name}", encode, row, parameters)
        try:
            content = orjson.dumps(output)
            TypeAdapter(self.task.Output).validate_json(content, strict=True)
        except TypeError as error:
            self.fail("encode", f"returns what is no JSON: {error}; row.tolist() gives numbers")
        except ValidationError as error:
            nulls = " (NaN and infinity are null in JSON; see finite_rows)" * (b"null" in content)
            self.fail(
                "encode",
                f"answers {sample.name} with {shown(output)}, which is no Output: "
                f"{explained(error)}{nulls}{batch_hint([sample])}",
            )
        return orjson.loads(content)


def distance(one: Any, other: Any) -> float:
    """Return how far two JSON values are apart; infinity if they are of different form.

    Numbers: their difference, or where `other` is above 1 that divided by it.
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(1.0, abs(other))
    return 0.0 if one == other else float("inf")
