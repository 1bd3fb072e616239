"""A process of the ideal.

    python -m comparison.ideal_worker WORKLOAD THREADS

The first line of its input is a request's body. Each further line asks for a measurement, as in
`{"size": 8, "seconds": 1}`, and is answered with what a batch cost.
"""

import json
import sys
from itertools import count
from time import perf_counter

import orjson
import torch
from torch import nn

from comparison.workloads import WORKLOADS, Workload


def main() -> None:
    workload = WORKLOADS[sys.argv[1]]
    torch.set_num_threads(int(sys.argv[2]))
    model = workload.model()
    body = sys.stdin.buffer.readline()
    for line in sys.stdin.buffer:
        cost = measure(workload, model, body, **json.loads(line))
        print(json.dumps(cost), flush=True)


@torch.inference_mode()
def measure(
    workload: Workload, model: nn.Module, body: bytes, size: int, seconds: float
) -> dict[str, float]:
    """Decode and run batches for a while; return the mean seconds of both, for one batch."""
    start_s = perf_counter()
    decode_s = forward_s = 0.0
    for done in count(1):  # noqa: B007 - it is used behind the loop
        before_s = perf_counter()
        # One by one: a pool would hide what decoding costs.
        items = [workload.collate([orjson.loads(body)["input"]]) for _ in range(size)]
        between_s = perf_counter()
        model(torch.cat(items))
        after_s = perf_counter()
        decode_s += between_s - before_s
        forward_s += after_s - between_s
        if after_s - start_s >= seconds:
            break
    return {"decode_s": decode_s / done, "forward_s": forward_s / done}


if __name__ == "__main__":
    main()
