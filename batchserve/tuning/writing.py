"""Puts values into a config file, and leaves everything else in it as it is."""

import io
import os
from pathlib import Path
from typing import Any

from batchserve.config import Config
from batchserve.config_file import read_config
from batchserve.errors import ConfigError
from batchserve.tuning.changes import Changes

# Lines of a user's are not broken.
WIDTH = 4096


def check_writing() -> None:
    """Raise if nothing could be written, before the work is done.

    Raises:
        ConfigError: ruamel.yaml is missing.
    """
    try:
        import ruamel.yaml  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "--write needs ruamel.yaml, which keeps a file's comments, and is not installed: "
            "pip install 'batchserve[tune]'"
        ) from None


def write_changes(path: Path, changes: Changes) -> None:
    """Put changes into a config file; comments stay.

    Raises:
        ConfigError: it cannot be written, or would not be valid any more; it is as it was then.
    """
    try:
        before = path.read_text(encoding="utf-8")
        after = changed(before, changes)
        # Beside it, so that it takes the file's place at once, and paths in it mean the same.
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_text(after, encoding="utf-8")
            beside.chmod(path.stat().st_mode)
            _check_others(read_config(path, {}), read_config(beside, {}), changes.place)
            beside.replace(os.path.realpath(path))
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--write: {path} cannot be written: {error.strerror}; put the lines in yourself"
        ) from None


def _check_others(before: Config, after: Config, place: int) -> None:
    """Raise if another model has changed, because the file has one section at two places."""
    models = [
        (old, new)
        for number, (old, new) in enumerate(zip(before.models, after.models, strict=True))
        if number != place
    ]
    if any(old != new for old, new in models):
        raise ConfigError(
            "--write: what would be changed is shared by other models of the file (an alias of "
            "YAML); put the lines in yourself"
        )


def changed(text: str, changes: Changes) -> str:
    """Return YAML with changes in their places."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - optional
    from ruamel.yaml.util import load_yaml_guess_indent  # noqa: PLC0415 - likewise

    _, indent, offset = load_yaml_guess_indent(text)
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, WIDTH
    yaml.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
    document = yaml.load(text)
    _put(document, "server", changes.server)
    model = document["models"][changes.place]
    model.update(changes.model)
    _put(model, "batching", changes.batching)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()


def _put(section: Any, key: str, values: dict[str, Any]) -> None:
    if values and section.get(key) is None:
        section[key] = dict(values)
    elif values:
        section[key].update(values)
