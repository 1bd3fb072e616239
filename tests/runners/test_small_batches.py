"""Which small batches get code of their own."""

import pytest
import torch

from batchserve.loading import Compiled
from batchserve.runners.forward import Forward
from batchserve.runners.small_batches import compile_small_batches
from batchserve.tasks.tensor import TensorTask

EXAMPLE = torch.ones(3)


class Sized(Compiled):
    """Knows who answered, and compiles nothing."""

    def __init__(
        self,
        module: torch.nn.Module | None = None,
        *,
        freeze: bool = True,
        fits: int = 100,
        error: Exception | None = None,
    ) -> None:
        super().__init__(module or torch.nn.Conv2d(1, 1, 1), freeze=freeze)
        self._error = error or torch.OutOfMemoryError()
        self.alone: set[int] = set()
        self.tried: list[int] = []
        self._fits = fits

    def compile_apart(self, rows: int) -> None:
        self.alone.add(rows)
        self.tried.append(rows)

    def compile_together(self, rows: int) -> None:
        self.alone.remove(rows)

    def settle(self) -> None:
        self._is_settled = True

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) in self.alone and len(batch) > self._fits:
            raise self._error
        return batch


def forward_of(module: Compiled, shape: tuple[int, ...] | None = (3,)) -> Forward:
    return Forward(module, TensorTask(shape), torch.device("cpu"), torch.float32, threads=1)


@pytest.fixture
def per_pass(monkeypatch: pytest.MonkeyPatch):
    """Return a function that says what passes of each size take, alone as a share of together."""

    def set_to(module: Sized, shares: dict[int, float]) -> None:
        def shortest_s(_at_once, items):
            size = len(items)
            return size * (shares[size] if size in module.alone else 1.0)

        monkeypatch.setattr("batchserve.runners.at_once.AtOnce.shortest_s", shortest_s)

    return set_to


@pytest.mark.parametrize(
    ("shares", "most", "alone"),
    [
        ({2: 0.7, 3: 0.8, 4: 0.9}, 16, {2, 3, 4}),
        ({2: 0.7, 3: 0.8, 4: 0.9}, 3, {2, 3}),
        ({2: 0.7, 3: 0.97, 4: 0.5}, 16, {2}),
        ({2: 1.1, 3: 0.5, 4: 0.5}, 16, set()),
        ({2: 0.5}, 1, set()),
    ],
)
def test_the_smallest_batches_get_it_as_long_as_it_pays(per_pass, shares, most, alone):
    module = Sized()
    per_pass(module, shares)
    made = compile_small_batches(forward_of(module), EXAMPLE, most)
    assert module.alone == alone
    assert made.seconds == {size: size * shares[size] for size in alone}


def test_it_is_told_what_came_of_it(per_pass):
    module = Sized()
    per_pass(module, {2: 0.5, 3: 1.0})
    made = compile_small_batches(forward_of(module), EXAMPLE, 16)
    assert str(made) == "2 2.00 times as fast; 3 1.00 times as fast, not used"


@pytest.mark.parametrize(
    "forward",
    [
        forward_of(Sized(freeze=False)),
        forward_of(Sized(torch.nn.Linear(3, 3))),
        forward_of(Sized(), shape=None),
        Forward(Sized(), TensorTask((3,)), torch.device("cpu"), torch.float32, pad_to=8),
    ],
    ids=["nothing packed", "no convolutions", "any shape", "padded"],
)
def test_where_it_cannot_pay_nothing_is_compiled(forward):
    assert compile_small_batches(forward, EXAMPLE, 16).seconds == {}
    assert forward.module.tried == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("C++ compile error")])
def test_what_cannot_be_compiled_for_itself_stays_as_it_was(per_pass, error):
    module = Sized(fits=2, error=error)
    per_pass(module, {2: 0.5, 3: 0.5, 4: 0.5})
    made = compile_small_batches(forward_of(module), EXAMPLE, 16)
    assert (module.alone, module.tried, set(made.seconds)) == ({2}, [2, 3], {2})
