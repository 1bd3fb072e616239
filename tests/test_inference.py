"""One request's way through a model, without HTTP."""

import asyncio
import threading
from functools import partial

import pytest
import torch

from batchserve.batch import Terms
from batchserve.config import Config
from batchserve.decoding import CodecPool
from batchserve.errors import InvalidInput, ModelFailed, TooLarge
from batchserve.inference import Answer, infer
from batchserve.repository import ModelRepository, ModelVersion
from batchserve.testing import GatedRunner


async def loaded(config: Config) -> ModelVersion:
    repository = ModelRepository(config.models)
    await repository.load()
    return repository.find()


async def ask(model: ModelVersion, *payloads: object, body_bytes: int = 0) -> Answer:
    pool = CodecPool(1)
    try:
        never_s = model.batcher.clock() + 60
        with model.batcher.arrival(Terms(never_s, never_s)) as arrival:
            return await infer(
                model,
                arrival,
                payloads,
                body_bytes,
                partial(model.task.encode, parameters=model.task.Parameters()),
                pool,
            )
    finally:
        pool.close()


@pytest.mark.parametrize("body_bytes", [0, 10**6], ids=["on the loop", "in the pool"])
async def test_payloads_are_answered_in_order(configure, body_bytes):
    model = await loaded(configure(source="tests.models:Double"))
    answer = await ask(model, [1.0], [2.0], [3.0], body_bytes=body_bytes)
    assert answer.outputs == [[2.0], [4.0], [6.0]]
    assert answer.batch_size == 3
    assert min(answer.decode_s, answer.queue_s, answer.forward_s) >= 0
    await model.close()


async def test_of_a_list_with_a_bad_input_nothing_is_computed(configure):
    model = await loaded(configure(source="tests.models:Double"))
    runner = model.batcher.passes.runner = GatedRunner()
    with pytest.raises(InvalidInput, match=r"inputs\[1\]: "):
        await ask(model, [1.0], ["no number"])
    assert (model.batcher.queued, runner.batches) == (0, [])
    await model.close()


async def test_more_inputs_than_can_wait_are_refused_before_they_are_decoded(
    configure, monkeypatch
):
    batching = {"max_batch_size": 2, "max_queue_size": 3}
    model = await loaded(configure(source="tests.models:Double", batching=batching))
    monkeypatch.setattr(model.task, "decode", lambda payload: pytest.fail("decoded"))
    with pytest.raises(TooLarge, match="max_queue_size=3"):
        await ask(model, *[[1.0]] * 4)
    await model.close()


@pytest.mark.parametrize(("numbers", "is_small"), [(10, True), (10_000, False)])
async def test_a_large_output_is_encoded_on_a_thread(configure, monkeypatch, numbers, is_small):
    model = await loaded(configure(source="tests.models:Double"))
    threads = []

    def encode(row, parameters):
        threads.append(threading.current_thread().name)
        return row.tolist()

    monkeypatch.setattr(model.task, "encode", encode)
    answer = await ask(model, [0.5] * numbers)
    assert answer.outputs == [[1.0] * numbers]
    assert answer.is_small is is_small
    assert threads == [threading.main_thread().name if is_small else "encode_0"]
    await model.close()


async def test_when_one_item_fails_the_rest_of_its_request_is_not_computed(configure):
    model = await loaded(
        configure(source="tests.models:FailsOnNegative", batching={"max_batch_size": 1})
    )
    computed: list[float] = []

    class Recording(GatedRunner):
        async def forward(self, tensors, *, all_cores=False):
            rows = await super().forward(tensors)
            computed.extend(tensor.item() for tensor in tensors)
            if tensors[0] < 0:
                raise ValueError("negative")
            return rows

    runner = model.batcher.passes.runner = Recording()
    asking = asyncio.create_task(ask(model, [-1.0], [2.0], [3.0]))
    await runner.wait_started()
    runner.release()
    with pytest.raises(ModelFailed):
        await asking
    for _ in range(3):
        runner.release()
    await ask(model, [4.0])
    # The second may have been on its way already; the third was not.
    assert -1.0 in computed
    assert 3.0 not in computed
    await model.close()


async def test_an_output_that_cannot_be_encoded_is_the_models_failure(configure, monkeypatch):
    model = await loaded(configure(source="tests.models:Double"))
    monkeypatch.setattr(model.task, "encode", lambda row, parameters: torch.zeros(2)[5])
    with pytest.raises(ModelFailed, match="cannot be encoded"):
        await ask(model, [1.0])
    await model.close()
