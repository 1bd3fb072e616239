"""Tensors in tuples, lists and mappings, as modules take and return them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return the same structure with `function` applied to each tensor; what is none stays."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: mapped(function, part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = (mapped(function, part) for part in value)
        return tuple(parts) if isinstance(value, tuple) else list(parts)
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield each tensor, in order; what is none is passed over."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
