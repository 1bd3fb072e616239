"""The lines of a config that what was measured asks for: pure."""

import json
from dataclasses import dataclass, field
from typing import Any

from batchserve.config import Config, ModelConfig
from batchserve.tuning.outcome import Outcome


@dataclass(frozen=True)
class Changes:
    """Values by key, as far as they are others than those of the config.

    Attributes:
        place: of the model in the config's list.
        name: of the model.
    """

    place: int
    name: str
    server: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    batching: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.server or self.model or self.batching)

    @property
    def yaml(self) -> str:
        """The lines, each in its place."""
        lines = []
        if self.server:
            lines += ["server:", *_lines(self.server, "  ")]
        if self.model or self.batching:
            lines += ["models:", f"  - name: {self.name}", *_lines(self.model, "    ")]
        if self.batching:
            lines += ["    batching:", *_lines(self.batching, "      ")]
        return "\n".join(lines)


def changes_for(
    best: Outcome, config: Config, place: int, *, orders_tried: bool = False
) -> Changes:
    """Return what a config must say to serve one of its models in this way.

    How many threads a pass may use is one number for all models: it is left alone where there are
    several.

    Args:
        best: what is recommended.
        config: the whole one.
        place: of the model in its list.
        orders_tried: images may lie in memory in both orders.
    """
    model, variant = config.models[place], best.variant
    wanted = {
        "precision": variant.precision,
        "quantize": variant.quantize,
        "compile": variant.compile,
    }
    # Where nobody states it, the warm-up has compiled code use it.
    assumed = orders_tried and variant.compile and model.channels_last is None
    if variant.channels_last != (assumed or bool(model.channels_last)):
        wanted["channels_last"] = variant.channels_last
    threads = {"torch_threads": best.threads} if len(config.models) == 1 else {}
    if config.server.threads_of_forward == best.threads:
        threads = {}
    return Changes(
        place,
        model.name,
        server=threads,
        model={key: value for key, value in wanted.items() if getattr(model, key) != value},
        batching=_batching(model, best),
    )


def _batching(model: ModelConfig, best: Outcome) -> dict[str, Any]:
    stated = model.batching.max_batch_size
    return {} if stated == best.knee else {"max_batch_size": best.knee}


def _lines(values: dict[str, Any], indent: str) -> list[str]:
    # What these keys hold is written in YAML as in JSON, but for the quotes.
    return [f"{indent}{key}: {json.dumps(value).strip(chr(34))}" for key, value in values.items()]
