from typing import Any

import pytest
import torch

from batchserve.errors import LoadError
from batchserve.loading.program import Input, Program, check_batch, largest_batch


class Recorded(Program):
    """Twice its input, and how many rows it was run on."""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (batch,) = (*args, *kwargs.values())
        self.rows = len(batch)
        return {"twice": 2 * batch, "rows": torch.tensor(len(batch))}

    def place(self, device: torch.device) -> None:
        pass


def program(least: int, most: int | None) -> Recorded:
    return Recorded([Input(torch.float32, least, most, (3,))], torch.float32)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("least", "most", "rows", "run"),
    [(1, None, 5, 5), (2, None, 1, 2), (4, 4, 1, 4), (4, 4, 4, 4), (2, 8, 3, 3), (1, 1, 1, 1)],
)
def test_a_batch_that_is_too_small_is_padded_and_cut(least, most, rows, run, named):
    padded, batch = program(least, most), torch.arange(rows * 3.0).view(rows, 3)
    output = padded(batch=batch) if named else padded(batch)
    assert padded.rows == run
    torch.testing.assert_close(output["twice"], 2 * batch, rtol=0, atol=0)
    assert output["rows"] == run


def test_a_batch_that_is_too_large_is_refused_with_how_to_export_it():
    with pytest.raises(ValueError, match="a batch of 5 is more than 4, the largest batch that it"):
        program(1, 4)(torch.zeros(5, 3))


@pytest.mark.parametrize(("most", "stated"), [(4, 4), (4, 1), (4, None), (None, 64), (1, 1)])
def test_a_stated_size_that_fits_passes(most, stated):
    check_batch(program(1, most), stated)


def test_a_stated_size_that_does_not_fit_is_refused_with_the_fix():
    with pytest.raises(LoadError) as caught:
        check_batch(program(1, 4), 16)
    assert str(caught.value) == (
        "batching.max_batch_size: 16 is more than 4, the largest batch that it was exported for; "
        'export it with dynamic_shapes=({0: torch.export.Dim("batch")},) for batches of any size'
    )


def test_the_narrowest_of_several_inputs_counts():
    inputs = [Input(torch.int64, 1, 8, (3,)), Input(torch.float32, 2, 4, (3,))]
    narrow = Recorded(inputs, None)
    assert (narrow.least, largest_batch(narrow)) == (2, 4)


def test_other_modules_take_any_batch():
    assert largest_batch(torch.nn.Linear(3, 2)) is None
    check_batch(torch.nn.Linear(3, 2), 1000)


def test_training_leaves_it_as_it_is():
    fixed = program(1, None)
    assert fixed.eval() is fixed
