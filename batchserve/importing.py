"""Import what a config names as `package.module:attribute`."""

import difflib
import importlib
from typing import Any

from batchserve.errors import LoadError


def import_attribute(path: str) -> Any:
    """Return what `package.module:attribute` names.

    Raises:
        LoadError: the path has another form, the module cannot be imported, or it has no such
            attribute; the message names the part that is wrong.
    """
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise LoadError(f"{path!r} is not of the form package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise LoadError(
                f"{path!r}: importing {module_name} failed, because it needs {error.name!r}, "
                f"which is not installed"
            ) from error
        raise LoadError(
            f"{path!r}: there is no module {error.name!r}; modules are looked for beside the "
            f"config file and among what is installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise LoadError(
            f"{path!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LoadError(f"{path!r}: {module_name} has no {attribute!r}{hint}") from None
