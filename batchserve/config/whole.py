"""The whole configuration, and what its parts must have in common."""

from pydantic import Field, model_validator

from batchserve.config.endpoint import EndpointConfig
from batchserve.config.model import ModelConfig
from batchserve.config.section import Section
from batchserve.config.server import ServerConfig


class Config(Section):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    models: list[ModelConfig] = Field(min_length=1)
    endpoints: list[EndpointConfig] = Field([])

    @model_validator(mode="after")
    def _waits_end_before_deadlines(self) -> "Config":
        for number, model in enumerate(self.models):
            if model.batching.max_wait_ms >= self.server.default_timeout_ms:
                raise ValueError(
                    f"models.{number}.batching.max_wait_ms ({model.batching.max_wait_ms:g}) is not "
                    f"below server.default_timeout_ms ({self.server.default_timeout_ms:g}): "
                    f"whoever waits so long gets 504"
                )
        return self

    @model_validator(mode="after")
    def _promises_end_before_deadlines(self) -> "Config":
        for number, model in enumerate(self.models):
            if model.slo_ms is None:
                continue
            if model.slo_ms > self.server.default_timeout_ms:
                raise ValueError(
                    f"models.{number}.slo_ms ({model.slo_ms:g}) is above "
                    f"server.default_timeout_ms ({self.server.default_timeout_ms:g}), after which "
                    f"nobody is answered; raise the one or lower the other"
                )
            if model.batching.policy == "fixed":
                raise ValueError(
                    f"models.{number}.slo_ms is kept by policy adaptive, and not by fixed; leave "
                    f"out one of them"
                )
        return self

    @model_validator(mode="after")
    def _versions_are_distinct(self) -> "Config":
        seen: set[tuple[str, str]] = set()
        for model in self.models:
            if (model.name, model.version) in seen:
                raise ValueError(
                    f"models: {model.name!r} version {model.version!r} is listed twice; give one "
                    f"of them another name or version"
                )
            seen.add((model.name, model.version))
        return self

    @model_validator(mode="after")
    def _candidates_are_tried_beside_another(self) -> "Config":
        first: dict[str, ModelConfig] = {}
        tried: dict[str, str] = {}
        for number, model in enumerate(self.models):
            where, current = f"models.{number}.candidate", first.setdefault(model.name, model)
            if model.candidate is None:
                continue
            if model is current:
                raise ValueError(
                    f"{where}: {model.key} is the first version of its model, and so the current "
                    f"one; a candidate is listed after it"
                )
            if model.name in tried:
                raise ValueError(
                    f"{where}: {tried[model.name]} is a candidate, too; a model has one at most"
                )
            if model.task != current.task:
                raise ValueError(
                    f"{where}: its task is {model.task}, and that of {current.key} is "
                    f"{current.task}; the same requests cannot go to both"
                )
            tried[model.name] = model.key
        return self

    @model_validator(mode="after")
    def _endpoints_lead_somewhere(self) -> "Config":
        versions: dict[str, list[str]] = {}
        for model in self.models:
            versions.setdefault(model.name, []).append(model.version)
        for number, endpoint in enumerate(self.endpoints):
            where = f"endpoints.{number}"
            if endpoint.model not in versions:
                raise ValueError(
                    f"{where}.model: there is no model {endpoint.model!r}; there is "
                    f"{', '.join(versions)}"
                )
            if endpoint.version not in (None, *versions[endpoint.model]):
                raise ValueError(
                    f"{where}.version: model {endpoint.model!r} has no version "
                    f"{endpoint.version!r}; it has {', '.join(versions[endpoint.model])}"
                )
            if (endpoint.slo_ms or 0) > self.server.default_timeout_ms:
                raise ValueError(
                    f"{where}.slo_ms ({endpoint.slo_ms:g}) is above server.default_timeout_ms "
                    f"({self.server.default_timeout_ms:g}), after which nobody is answered; raise "
                    f"the one or lower the other"
                )
        return self

    @model_validator(mode="after")
    def _endpoints_are_distinct(self) -> "Config":
        paths = [endpoint.path for endpoint in self.endpoints]
        for number, path in enumerate(paths):
            if path in paths[:number]:
                raise ValueError(
                    f"endpoints.{number}.path: {path} is listed twice; give one of them another"
                )
        return self
