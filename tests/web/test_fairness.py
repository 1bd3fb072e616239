"""A request with many inputs, and those with one."""

import asyncio

from tests.web.clients import batcher_of, gate, until

SERVER = {"torch_threads": 1}
MANY = 1000


async def test_a_thousand_inputs_do_not_hold_up_a_single_one(serve):
    client = await serve(
        source="tests.models:Double",
        server=SERVER,
        batching={"max_batch_size": 8, "max_queue_size": 2000, "max_wait_ms": 0},
    )
    runner, batcher = gate(client), batcher_of(client)
    many = asyncio.create_task(
        client.post("/predict", json={"inputs": [[float(number)] for number in range(MANY)]})
    )
    await runner.wait_started()
    single = asyncio.create_task(client.post("/predict", json={"input": [5000.0]}))
    await until(lambda: batcher.queued > MANY - 8)

    for _ in range(MANY):
        runner.release()
    assert (await (await single).json())["output"] == [5000.0]
    outputs = (await (await many).json())["outputs"]
    assert outputs == [[float(number)] for number in range(MANY)]
    # It travelled in the first batch that was formed after it had come.
    (number,) = [
        number
        for number, batch in enumerate(runner.batches)
        if any(tensor.item() == 5000.0 for tensor in batch)
    ]
    assert number == 1
