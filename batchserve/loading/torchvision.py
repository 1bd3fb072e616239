"""`torchvision:NAME`, with weights of torchvision's, of a file, or random ones."""

import difflib
from inspect import signature
from pathlib import Path

import torch

from batchserve.errors import LoadError
from batchserve.loading.weights import classes_in, fill, read_checkpoint


def load(source: str, weights: str | None, *, trust: bool) -> torch.nn.Module:
    """Return a model of torchvision's.

    Args:
        source: `torchvision:NAME`.
        weights: the name of some of torchvision's, the path of a file, or None for random ones.
        trust: whether that file may run code.

    Raises:
        LoadError: there is no such model, there are no such weights, or they do not fit.
    """
    name = known_name(source)
    if weights is None:
        return build(name)
    if "/" in weights:
        path = Path(weights)
        held = read_checkpoint(path, trust=trust)
        return fill(build(name, classes_in(held)), held, path)
    return _with_published_weights(name, weights)


def known_name(source: str) -> str:
    """Return NAME of `torchvision:NAME`.

    Raises:
        LoadError: torchvision has no such model; the message names near ones.
    """
    from torchvision import models  # noqa: PLC0415 - 2 s that other sources need not pay

    name = source.partition(":")[2]
    if name not in models.list_models():
        near = difflib.get_close_matches(name, models.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise LoadError(f"torchvision has no model {name!r}{hint}")
    return name


def build(name: str, classes: int | None = None) -> torch.nn.Module:
    """Return a model with random weights, without asking the network for anything.

    Args:
        name: one that torchvision knows.
        classes: how many, where the model was fine-tuned; None: as torchvision has it.
    """
    from torchvision import models  # noqa: PLC0415

    # Models of segmentation and detection fetch a backbone unless told not to.
    takes_backbone = "weights_backbone" in signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if takes_backbone else {}
    head = {} if classes is None else {"num_classes": classes}
    module: torch.nn.Module = models.get_model(name, weights=None, **backbone, **head)
    return module


def _with_published_weights(name: str, weights: str) -> torch.nn.Module:
    from torchvision import models  # noqa: PLC0415

    known = models.get_model_weights(name)
    if weights not in known.__members__:
        raise LoadError(
            f"torchvision's {name} has no weights {weights!r}; it has "
            f"{', '.join(known.__members__)}; a file is named by its path"
        )
    try:
        return models.get_model(name, weights=known[weights], progress=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:
        raise LoadError(
            f"the weights {weights} of torchvision's {name} could not be downloaded from "
            f"{known[weights].url} ({error}); fetch that file where there is a network and set "
            f"weights: to its path"
        ) from error
