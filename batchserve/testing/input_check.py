"""From inputs to batches, as a server goes that way."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import torch
from pydantic import BaseModel, ValidationError

from batchserve.errors import RequestError
from batchserve.mistakes import explained
from batchserve.runners.nested import tensors_in
from batchserve.testing.faults import Check, Sample, batch_hint, names, shown
from batchserve.web.formats import Json
from batchserve.web.schema import schema_of

# An item that shares its key with no other is its own company.
COMPANY = 3


class InputCheck(Check):
    """What comes before the model: types, `decode`, `example`, `bucket_key` and `collate`."""

    def description(self, query: Mapping[str, str]) -> BaseModel:
        """Check what the class says of its types, and return the query string's parameters."""
        try:
            schema = schema_of(type(self.task))
            schema.request.model_json_schema()
            schema.response.model_json_schema()
        except Exception as error:  # noqa: BLE001 - pydantic's, of many kinds
            self.fail("Input or Output", f"is no type that pydantic describes in JSON: {error}")
        try:
            self.task.Parameters()
        except ValidationError as error:
            self.fail("Parameters", f"needs a default for each field: {explained(error)}")
        return self.task.Parameters.model_validate(dict(query))

    def refusal(self, payload: Any) -> None:
        try:
            self._decode(payload, shown(payload))
        except RequestError:
            return
        self.fail("decode", f"accepts {shown(payload)}, which is listed as refused")

    def decoded(self, name: str, payload: Any) -> Sample:
        where = f"{name}, {shown(payload)}"
        try:
            item = self._decode(payload, where)
        except RequestError as error:
            self.fail("decode", f"refuses {where}: {error}", error)
        return self._sample("decode", name, item)

    def example(self) -> list[Sample]:
        """Return what the model is warmed up with, if there is such an item."""
        item = self.attempt("example", "at warm-up", self.task.example)
        return [] if item is None else [self._sample("example", "example()", item)]

    def shapes(self, samples: Sequence[Sample]) -> None:
        kinds = {f"{list(sample.item.shape)} of {sample.item.dtype}" for sample in samples}
        if self.task.fixed_shape and len(kinds) > 1:
            self.fail("fixed_shape", f"is True, but items are {' and '.join(sorted(kinds))}")

    def buckets(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Return those that can share a batch, at least two in each."""
        buckets: dict[Hashable, list[Sample]] = defaultdict(list)
        for sample in samples:
            buckets[self._key(sample)].append(sample)
        return [bucket if len(bucket) > 1 else bucket * COMPANY for bucket in buckets.values()]

    def batch(self, bucket: Sequence[Sample]) -> None:
        items = [sample.item for sample in bucket]
        if len(dtypes := sorted({str(item.dtype) for item in items})) > 1:
            self.fail(
                "bucket_key",
                f"puts {names(bucket)} together, which are of {' and '.join(dtypes)}; state the "
                f"dtype of tensors in decode, because an empty one is of float32 otherwise",
            )
        batch = self.attempt("collate", f"on {names(bucket)}", self.task.collate, items)
        self.kept(bucket, "collate", "part of a batch may be tried again, so copy what you change")
        tensors = list(tensors_in(batch))
        if isinstance(batch, list) or not tensors:
            self.fail(
                "collate",
                f"returns {shown(batch)}; return a tensor, a tuple of tensors (the module's "
                f"positional arguments) or a dict of them (its keyword arguments)",
            )
        for tensor in tensors:
            if tensor.ndim == 0 or len(tensor) != len(items):
                self.fail(
                    "collate",
                    f"makes a tensor of shape {list(tensor.shape)} of {len(items)} items; its "
                    f"first dimension must be {len(items)}{batch_hint(bucket)}",
                )

    def _decode(self, payload: Any, where: str) -> Any:
        """Return what `decode` makes of what it gets when a client sends this.

        Raises:
            RequestError: the client is told that it is wrong.
        """
        received = self._received(payload)
        try:
            return self.task.decode(received)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - the task's own, of any kind
            self.fail(
                "decode",
                f"raises {type(error).__name__} on {where}: {error}; the client would be answered "
                f"500; raise InvalidInput for what is the client's mistake",
                error,
            )

    def _received(self, payload: Any) -> Any:
        if isinstance(payload, bytes):
            if not self.task.media_types:
                self.fail("media_types", "is empty, so no client can send bytes; list their type")
            return payload
        if isinstance(payload, np.ndarray):
            if not self.task.arrays:
                self.fail("arrays", "is False, so no client can send an array; set it to True")
            received = payload.view()
            received.flags.writeable = False
            return received
        try:
            body = orjson.dumps({"input": payload})
        except TypeError:
            self.fail("Input", f"comes as JSON, which cannot hold {shown(payload)}")
        (parsed,), _ = Json().parse(body, schema_of(type(self.task)).request, self.task)
        return parsed

    def _sample(self, method: str, name: str, item: Any) -> Sample:
        if not isinstance(item, torch.Tensor) or item.device.type != "cpu":
            self.fail(method, f"returns {shown(item)} for {name}; return a tensor on the CPU")
        return Sample(name, item, item.clone())

    def _key(self, sample: Sample) -> Hashable:
        key = self.attempt("bucket_key", f"on {sample.name}", self.task.bucket_key, sample.item)
        self.attempt("bucket_key", f"returns {shown(key)}, of which hash()", hash, key)
        if key != self.task.bucket_key(sample.copy):
            self.fail(
                "bucket_key",
                f"returns {shown(key)} for {sample.name}, and something else for an equal item, "
                f"so that no two share a batch; make it of numbers and strings",
            )
        return key
