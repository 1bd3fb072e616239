"""The JSON of an inference request, as pydantic models that validate and document it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from batchserve.errors import BadRequest
from batchserve.mistakes import explained_in_body, first_in
from batchserve.web.v2.tensors import KNOWN

# Of a tensor; numpy has no more.
MOST_DIMENSIONS = 32
Size = Annotated[int, Field(ge=1, lt=2**63)]
# An error repeats it.
Name = Annotated[str, Field(max_length=256)]

M = TypeVar("M", bound=BaseModel)


class Part(BaseModel):
    """A part of the protocol; parameters of other servers pass unheeded."""

    model_config = ConfigDict(strict=True)


class InputParameters(Part):
    """Of one input: the binary tensor data extension."""

    binary_data_size: int | None = Field(
        None, ge=0, description="Bytes of this tensor behind the JSON; without: they are in data."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_shared_memory(cls, stated: Any) -> Any:
        if isinstance(stated, dict) and "shared_memory_region" in stated:
            raise ValueError("there is no shared memory with this server; send the data")
        return stated


class RequestInput(Part):
    """One input tensor; its first dimension is the batch."""

    name: Name = Field(examples=["input"])
    shape: list[Size] = Field(min_length=1, max_length=MOST_DIMENSIONS, examples=[[1, 10]])
    datatype: Literal[KNOWN] = Field(examples=["FP32"])  # type: ignore[valid-type]
    parameters: InputParameters = Field(default_factory=InputParameters)
    data: Any = Field(None, description="A list, flat or nested as shape says.")


class OutputParameters(Part):
    """Of one output: the extensions for binary tensor data and for classification."""

    binary_data: bool | None = Field(None, description="Behind the JSON instead of in data.")
    classification: int = Field(
        0, ge=0, description="So many of the best classes, as score:index:label, instead."
    )


class RequestOutput(Part):
    """An output tensor that is asked for."""

    name: Name = Field(examples=["output"])
    parameters: OutputParameters = Field(default_factory=OutputParameters)


class RequestParameters(Part):
    """Of the request: the extensions for schedule policy and binary tensor data."""

    priority: int = Field(0, ge=0, description="1 is the highest; 0: the default.")
    timeout: int = Field(0, ge=0, description="An answer within so many µs, or 504; 0: the default")
    binary_data_output: bool = Field(
        False, description="All outputs behind the JSON, but those that say otherwise."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_sequences(cls, stated: Any) -> Any:
        if isinstance(stated, dict) and stated.get("sequence_id"):
            raise ValueError("sequence_id: models here keep nothing from one request to the next")
        return stated


class InferRequest(Part):
    """Named tensors in; without `outputs`, all of them are answered."""

    id: str | None = Field(None, description="Repeated in the answer.")
    parameters: RequestParameters = Field(default_factory=RequestParameters)
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] = []


class ResponseParameters(BaseModel):
    """Of an output that goes behind the JSON."""

    binary_data_size: int


class ResponseOutput(BaseModel):
    """One output tensor; its first dimension is the batch."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] = Field([], description="Flat; without: behind the JSON.")
    parameters: ResponseParameters | None = None


class InferResponse(BaseModel):
    """Named tensors out."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str = Field("", description="If the request has one.")
    outputs: list[ResponseOutput]


class IndexRequest(Part):
    """What to list of the repository."""

    ready: bool = Field(False, description="Only what is ready.")


class LoadParameters(BaseModel):
    """What to load, or unload; unknown ones, as `unload_dependents`, mean nothing here."""

    model_config = ConfigDict(extra="allow")

    version: str | None = Field(None, description="Of the model; 1 where config is given.")
    config: str | None = Field(
        None, description="JSON: the version's section as in the config file."
    )
    current: bool = Field(True, description="Have it answer where no version is named.")


class LoadRequest(Part):
    """Load or unload a model."""

    parameters: LoadParameters = LoadParameters()


class Section(RootModel[dict[str, Any]]):
    """A version's section, as in the config file."""


def parse(model: type[M], data: bytes) -> M:
    """Return a body's JSON.

    Raises:
        BadRequest: it is not JSON, or not of the protocol's form.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(explained_in_body(first_in(error))) from None
