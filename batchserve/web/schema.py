"""What predicting takes and gives: pydantic models that validate it and document it."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    RootModel,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from batchserve.tasks.base import Task

INPUT = "input"
# What an input that may be several things is tried as: part of where pydantic says a mistake is.
ITSELF, BY_URL, AS_FILE = "(itself)", "(by its address)", "(as a file)"


class ErrorBody(BaseModel):
    """Every answer other than 200."""

    error: str = Field(description="What is wrong, and what would be right.")
    code: str = Field(description="For programs.", examples=["queue_full"])


def _one_of(*names: str) -> ConfigDict:
    """Return the configuration of a model of which just one field must be there."""
    one_of: dict[str, Any] = {"oneOf": [{"required": [name]} for name in names]}
    return ConfigDict(extra="forbid", json_schema_extra=one_of)


class PredictRequest(BaseModel):
    """One input, or a list of them that is answered in order."""

    list_name: ClassVar[str] = "inputs"
    untyped: ClassVar[bool] = False  # any JSON is an input, as far as pydantic is concerned
    model_config = _one_of(INPUT, list_name)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"the body must be {self.form()}")
        return self

    @classmethod
    def form(cls) -> str:
        """Return what a body must be, for messages."""
        return f'{{"{INPUT}": X}} or {{"{cls.list_name}": [X, …]}}'

    def payloads(self) -> tuple[list[Any], bool]:
        """Return the inputs, and whether the client sent a list."""
        is_list = self.list_name in self.model_fields_set
        return (getattr(self, self.list_name), True) if is_list else ([getattr(self, INPUT)], False)


class PredictResponse(BaseModel):
    """`output` for one input, `outputs` for a list."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(description="Who answered.")
    version: str


class ByUrl(BaseModel):
    """A file's address, from which the server may fetch it if its operator allows that."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(json_schema_extra={"format": "uri"})


class _AlsoByUrl:
    """Annotates an input that is a file, which may be named by its address instead.

    Bytes, which no JSON can hold, are the file itself.
    """

    def __get_pydantic_core_schema__(self, source: Any, of: GetCoreSchemaHandler) -> CoreSchema:
        itself, by_url = (of(source), ITSELF), (of.generate_schema(ByUrl), BY_URL)
        file = (core_schema.is_instance_schema(bytes), AS_FILE)
        return core_schema.json_or_python_schema(
            json_schema=core_schema.union_schema([itself, by_url], mode="left_to_right"),
            python_schema=core_schema.union_schema([file, itself, by_url], mode="left_to_right"),
        )


@dataclass(frozen=True)
class PredictSchema:
    """The models of one task's requests and responses."""

    request: type[PredictRequest]
    response: type[BaseModel]


def _drop_default(schema: dict[str, Any]) -> None:
    # That a field may be missing does not mean that it may be null.
    del schema["default"]


@cache
def schema_of(task: type[Task]) -> PredictSchema:
    """Return the models for a task's `Input` and `Output`."""
    absent: Any = Field(None, json_schema_extra=_drop_default)
    absent_list: Any = Field(None, min_length=1, json_schema_extra=_drop_default)
    return PredictSchema(
        request=request_model(f"{task.__name__}Request", PredictRequest, task),
        response=create_model(
            f"{task.__name__}Response",
            __base__=PredictResponse,
            __doc__=PredictResponse.__doc__,
            output=(task.Output, absent),
            outputs=(list[task.Output], absent_list),  # type: ignore[name-defined]
        ),
    )


def request_model(name: str, base: type[PredictRequest], task: type[Task]) -> type[PredictRequest]:
    """Return the model of the requests of `base`'s form, with this task's inputs."""
    one: Any = Annotated[task.Input, _AlsoByUrl()] if task.media_types else task.Input
    fields: dict[str, Any] = {
        INPUT: (one, Field(None, json_schema_extra=_drop_default)),
        base.list_name: (
            # Of a long list, one mistake is enough.
            Annotated[list[one], FailFast()],
            Field(None, min_length=1, json_schema_extra=_drop_default),
        ),
    }
    model: type[PredictRequest] = create_model(name, __base__=base, __doc__=base.__doc__, **fields)
    model.untyped = task.Input is Any or get_args(task.Input)[:1] == (Any,)
    return model


class EndpointRequest(PredictRequest):
    """One input, or a list of them that is answered in order."""

    list_name: ClassVar[str] = "input_batch"
    model_config = _one_of(INPUT, list_name)


class EndpointAnswer(BaseModel):
    """What the model answered, or what stands in for it."""

    model_config = ConfigDict(protected_namespaces=())

    query_id: int = Field(description="A number for each input.", ge=0)
    default: bool = Field(description="Whether the output is the default, and not the model's.")
    default_explanation: str = Field(
        description="Why, if it is the default.", json_schema_extra=_drop_default, default=""
    )
    model: str = Field(description="Who answered, or would have.")
    version: str | None


@cache
def endpoint_schema_of(task: type[Task]) -> PredictSchema:
    """Return the models for a task's `Input` and `Output` at an endpoint."""
    output: Any = task.Output | Any
    answer = create_model(
        f"{task.__name__}EndpointAnswer",
        __base__=EndpointAnswer,
        __doc__=EndpointAnswer.__doc__,
        output=(output, Field(description="The model's output, or the default.")),
    )
    answers = create_model(
        f"{task.__name__}EndpointAnswers",
        __doc__="The answers to `input_batch`, in its order.",
        batch_predictions=(list[answer], Field(min_length=1)),
    )
    either: Any = answer | answers
    return PredictSchema(
        request=request_model(f"{task.__name__}EndpointRequest", EndpointRequest, task),
        response=create_model(
            f"{task.__name__}EndpointResponse", __base__=RootModel[either], __doc__=None
        ),
    )
