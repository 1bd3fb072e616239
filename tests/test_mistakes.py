"""What pydantic finds wrong, in words."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from batchserve.mistakes import explained, explained_in_body, first_in


class Range(BaseModel):
    low: float = 0
    high: float = 1

    @field_validator("low")
    @classmethod
    def _positive(cls, low: float) -> float:
        if low < 0:
            raise ValueError(f"{low} is negative")
        return low

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Ranges(BaseModel):
    ranges: list[Range]


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([{}, {"low": "x"}], "ranges.1.low: Input should be a valid number"),
        ([{"low": -1}], "ranges.0.low: -1.0 is negative"),
        ([{"low": 2}], "ranges.0: low is above high"),
    ],
)
def test_a_mistake_is_told_with_its_place(ranges: list[Any], words: str):
    body = json.dumps({"ranges": ranges})
    with pytest.raises(ValidationError) as caught:
        Ranges.model_validate_json(body)
    assert explained(caught.value).startswith(words)
    assert explained_in_body(first_in(caught.value)).startswith(words)


def test_a_mistake_of_the_whole_has_no_place():
    with pytest.raises(ValidationError) as caught:
        Range(low=2)
    assert explained(caught.value) == "low is above high"


def test_a_body_that_is_no_json_is_called_that():
    with pytest.raises(ValidationError) as caught:
        Ranges.model_validate_json("{")
    assert explained_in_body(first_in(caught.value)).startswith("the body is not JSON: EOF")
