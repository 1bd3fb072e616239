"""A flat list of numbers, read from JSON right into an array: a Python number for each costs more.

By simdjson (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", VLDB Journal 28, 2019).
"""

from threading import local

import numpy as np
import simdjson

from batchserve.web.arrays import Array
from batchserve.web.schema import INPUT


class _OfThread(local):
    """A parser keeps its memory, for one document at a time."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_of_thread = _OfThread()


def flat_numbers(body: bytes) -> Array | None:
    """Return the input of `{"input": [1, 2.5, …]}` as float64 of shape (n,).

    None: the body is anything else, or wrong.
    """
    # Lists within the list would be flattened; text, which could hold a bracket, is refused.
    if body.count(b"[") != 1:
        return None
    try:
        document = _of_thread.parser.parse(body)
        if not isinstance(document, simdjson.Object) or len(document) != 1:
            return None
        numbers = document[INPUT]
        if not isinstance(numbers, simdjson.Array):
            return None
        return np.frombuffer(numbers.as_buffer(of_type="d"))
    except (KeyError, TypeError, ValueError):
        return None
