"""Passes recorded once for each batch size, and then launched whole: CUDA graphs, used.

Launching the kernels of a small pass one by one takes Python longer than the device needs to run
them. A recorded pass reads and writes the same memory each time: its inputs are copied there, and
its output is to be read before the next one. A batch between two sizes is filled up to the larger
one with its last row (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from batchserve.runners.nested import mapped, tensors_in

Replay = Callable[[], None]
# Records what a function does on the device, and returns its output, which each replay fills anew.
Record = Callable[[Callable[[], Any]], tuple[Any, Replay]]
Named = Mapping[Hashable, torch.Tensor]

# What `mapped` makes again as it was.
NESTS = (tuple, list, dict, OrderedDict)


class NotRecordable(Exception):
    """A pass that no graph can be made of, and why."""


@dataclass
class Graph:
    """A recorded pass.

    Attributes:
        size: rows that it always has.
        least: rows that a batch must have to be worth so many.
        inputs: that it reads, by name or place.
        output: that it writes.
        replay: queues it on the stream.
    """

    size: int
    least: int
    inputs: Named
    output: Any
    replay: Replay

    def __call__(self, inputs: Named, rows: int) -> Any:
        for name, tensor in inputs.items():
            self.inputs[name][:rows].copy_(tensor)
            if rows < self.size:
                self.inputs[name][rows:].copy_(tensor[-1:])
        self.replay()
        return mapped(lambda tensor: tensor[:rows], self.output)


class Graphs:
    """A module's recorded passes.

    Args:
        record: see above.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._graphs: dict[int, Graph] = {}
        self._kind: object = None

    def add(self, module: Callable[[Any], Any], inputs: Any) -> Graph:
        """Record what a module does with inputs of this shape; sizes come in rising order.

        Args:
            module: takes inputs as one.
            inputs: on the device: a tensor, a tuple or a mapping of them.

        Raises:
            NotRecordable: they are something else, or its output is.
            Exception: as recording raises.
        """
        named = _named(inputs)
        size = _rows(named)
        # Not the inputs themselves: an output that does not come of what is copied later is found.
        fixed = mapped(torch.zeros_like, inputs)
        output, replay = self._record(lambda: module(fixed))
        _check_output(output, size)
        self._kind = self._kind or _kind(named)
        least = max(self._graphs, default=0) + 1
        self._graphs[size] = Graph(size, least, _named(fixed), output, replay)
        return self._graphs[size]

    def drop(self, size: int) -> None:
        """Forget the graph for so many rows, if there is one."""
        self._graphs.pop(size, None)

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, inputs: Any) -> Any | None:
        """Queue the pass; None: it is for the module itself.

        Returns:
            The output, which stays what it is until the next pass.
        """
        try:
            named = _named(inputs)
            rows = _rows(named)
        except NotRecordable:
            return None
        if _kind(named) != self._kind:
            return None
        for graph in self._graphs.values():
            if graph.least <= rows <= graph.size:
                return graph(named, rows)
        return None


def first_worth(before: int, before_s: float, size: int, plain_s: float, graph_s: float) -> int:
    """Return from how many rows on a graph of `size` is faster than the module itself.

    Args:
        before: the largest smaller size that was measured, without a graph.
        before_s: seconds of a pass of it.
        size: of the graph.
        plain_s: seconds of a pass of that without it; those in between lie on a line.
        graph_s: seconds with it.
    """
    if graph_s <= before_s or plain_s <= before_s:
        return before + 1
    share = (graph_s - before_s) / (plain_s - before_s)
    return min(size, before + 1 + int(share * (size - before)))


def _named(inputs: Any) -> Named:
    if isinstance(inputs, torch.Tensor):
        return {0: inputs}
    named = dict(inputs if isinstance(inputs, Mapping) else enumerate(inputs))
    if not named or not all(isinstance(part, torch.Tensor) for part in named.values()):
        raise NotRecordable("the module takes something else than tensors")
    return named


def _rows(named: Named) -> int:
    sizes = {tensor.shape[:1] for tensor in named.values()}
    if len(sizes) > 1 or () in sizes:
        raise NotRecordable("the module's inputs have different numbers of rows")
    ((rows,),) = sizes
    return rows


def _kind(named: Named) -> object:
    return {name: (tensor.shape[1:], tensor.dtype) for name, tensor in named.items()}


def _check_output(output: Any, size: int) -> None:
    """Raise unless it is made of tensors of so many rows."""
    if not isinstance(output, torch.Tensor) and type(output) not in NESTS:
        raise NotRecordable(f"the module returns {type(output).__name__}")
    if any(tensor.shape[:1] != (size,) for tensor in tensors_in(output)):
        raise NotRecordable(f"the module does not return {size} rows for {size}")
    if not isinstance(output, torch.Tensor):
        for part in output.values() if isinstance(output, dict) else output:
            _check_output(part, size)
