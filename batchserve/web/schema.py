"""The JSON that predicting takes and gives: pydantic models that validate and document it."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from batchserve.tasks.base import Task


class ErrorBody(BaseModel):
    """Every answer other than 200."""

    error: str = Field(description="What is wrong, and what would be right.")
    code: str = Field(description="For programs.", examples=["queue_full"])


class PredictRequest(BaseModel):
    """One input, or a list of them that is answered in order."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["input"]}, {"required": ["inputs"]}]},
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError('the body must be {"input": X} or {"inputs": [X, …]}')
        return self


class PredictResponse(BaseModel):
    """`output` for one input, `outputs` for a list."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(description="Who answered.")
    version: str


@dataclass(frozen=True)
class PredictSchema:
    """The models of one task's requests and responses."""

    request: type[PredictRequest]
    response: type[PredictResponse]


def _drop_default(schema: dict[str, Any]) -> None:
    # That a field may be missing does not mean that it may be null.
    del schema["default"]


@cache
def schema_of(task: type[Task]) -> PredictSchema:
    """Return the models for a task's `Input` and `Output`."""
    absent: Any = Field(None, json_schema_extra=_drop_default)
    absent_list: Any = Field(None, min_length=1, json_schema_extra=_drop_default)
    return PredictSchema(
        request=create_model(
            f"{task.__name__}Request",
            __base__=PredictRequest,
            __doc__=PredictRequest.__doc__,
            input=(task.Input, absent),
            inputs=(list[task.Input], absent_list),  # type: ignore[name-defined]
        ),
        response=create_model(
            f"{task.__name__}Response",
            __base__=PredictResponse,
            __doc__=PredictResponse.__doc__,
            output=(task.Output, absent),
            outputs=(list[task.Output], absent_list),  # type: ignore[name-defined]
        ),
    )
