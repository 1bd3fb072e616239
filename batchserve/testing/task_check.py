"""Whether a task keeps what a server relies on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchserve.tasks.base import Task
from batchserve.testing.answer_check import AnswerCheck
from batchserve.testing.input_check import InputCheck


def check_task(
    task: Task,
    payloads: Sequence[Any],
    module: torch.nn.Module | None = None,
    *,
    refused: Sequence[Any] = (),
    parameters: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
) -> list[Any]:
    """Take inputs through a task as a server does, each alone and then in company.

    Args:
        task: to be checked.
        payloads: inputs that it accepts: X of `{"input": X}`, the bytes of a raw body, or a numpy
            array. A few of different lengths or sizes show most.
        module: the model, or a small one that takes and returns the same shapes, in fp32 on the
            CPU; it is set to evaluation mode. None: nothing is checked beyond `collate`.
        refused: inputs that a client is to be told are wrong.
        parameters: a query string, as in `{"top_k": "3"}`.
        tolerance: how far a number of an answer in company may be from the same alone, relatively
            where that is above 1.

    Returns:
        The answers to `payloads`, as a client gets them in JSON; without a module none.

    Raises:
        AssertionError: with the method that is wrong, what it did, and what to change.
    """
    inputs = InputCheck(task)
    stated = inputs.description(parameters or {})
    for payload in refused:
        inputs.refusal(payload)
    samples = [inputs.decoded(f"payloads[{i}]", payload) for i, payload in enumerate(payloads)]
    inputs.kept(samples, "decode", "return a new tensor for each input")
    everything = [*samples, *inputs.example()]
    inputs.shapes(everything)
    buckets = inputs.buckets(everything)
    for bucket in buckets:
        inputs.batch(bucket)
    if module is None:
        return []
    answers = AnswerCheck(task, module, stated)
    alone = {sample.name: answers.answers([sample])[0] for sample in everything}
    for bucket in buckets:
        answers.same(bucket, alone, tolerance)
    return [alone[sample.name] for sample in samples]
