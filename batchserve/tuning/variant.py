"""The ways in which a model can be run: pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from batchserve.config import ModelConfig


@dataclass(frozen=True)
class Variant:
    """One way, by the config's keys."""

    precision: str = "fp32"
    quantize: str | None = None
    channels_last: bool = False
    compile: bool = False

    @property
    def keeps_answers(self) -> bool:
        """Whether numbers are rounded as in fp32, though sums may be added up in another order."""
        return self.precision == "fp32" and self.quantize is None

    @property
    def compiled(self) -> "Variant":
        return replace(self, compile=True)

    def apply(self, model: ModelConfig) -> ModelConfig:
        """Return a model's config with this way to run it."""
        return model.model_copy(
            update={
                "precision": self.precision,
                "quantize": self.quantize,
                "channels_last": self.channels_last,
                "compile": self.compile,
            }
        )

    def __str__(self) -> str:
        parts = [self.precision, self.quantize]
        parts += ["channels_last"] * self.channels_last + ["compile"] * self.compile
        return " ".join(filter(None, parts))


class Allows(Protocol):
    """What is known of a model and of where it runs."""

    @property
    def has_convolutions(self) -> bool: ...
    @property
    def has_linears(self) -> bool: ...
    @property
    def has_fixed_precision(self) -> bool: ...
    @property
    def on_cuda(self) -> bool: ...


def configured(model: ModelConfig) -> Variant:
    """Return the way that a config states."""
    return Variant(model.precision, model.quantize, bool(model.channels_last), model.compile)


def uncompiled(model: ModelConfig, allows: Allows) -> list[Variant]:
    """Return the ways that are worth a try, without those that are compiled.

    The first is the one that others are compared with: fp32, if the model can be run in it.
    """
    layouts = (False, True) if allows.has_convolutions else (False,)
    variants = [
        Variant(precision, channels_last=channels_last)
        for precision in _precisions(model, allows)
        for channels_last in layouts
    ]
    if allows.has_linears and not allows.on_cuda:
        variants.append(Variant(quantize="int8-dynamic"))
    return list(dict.fromkeys([*variants, replace(configured(model), compile=False)]))


def worth_compiling(variants: Iterable[Variant], model: ModelConfig) -> frozenset[Variant]:
    """Return those of the ways that may gain from a compiler.

    What is in int8 calls kernels of its own, which a compiler does not see into: only who has it so
    is told what that gives.
    """
    stated = replace(configured(model), compile=False) if model.compile else None
    return frozenset(one for one in variants if one.quantize is None or one == stated)


def _precisions(model: ModelConfig, allows: Allows) -> tuple[str, ...]:
    if allows.has_fixed_precision:
        return (model.precision,)
    return ("fp32", "bf16", "fp16") if allows.on_cuda else ("fp32", "bf16")
