"""What pydantic finds wrong, in words for whoever wrote it: where, and what is the matter."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def place_of(mistake: ErrorDetails) -> str:
    """Return where a mistake is, as in `models.0.batching`; nothing if it is of the whole."""
    return ".".join(str(part) for part in mistake["loc"])


def reason_of(mistake: ErrorDetails) -> str:
    """Return what is the matter, as our own validators or pydantic say it."""
    return mistake["msg"].removeprefix("Value error, ")


def in_words(mistake: ErrorDetails) -> str:
    """Return where a mistake is, and what is the matter."""
    where, reason = place_of(mistake), reason_of(mistake)
    return f"{where}: {reason}" if where else reason


def first_in(error: ValidationError) -> ErrorDetails:
    """Return the first mistake; of a long body there may be thousands."""
    return error.errors(include_url=False, include_input=False)[0]


def explained(error: ValidationError) -> str:
    """Return the first mistake in words."""
    return in_words(first_in(error))


def explained_in_body(mistake: ErrorDetails) -> str:
    """Return a mistake of a request's body in words; it may be no JSON at all."""
    if mistake["type"] == "json_invalid":
        return f"the body is not JSON: {reason_of(mistake).removeprefix('Invalid JSON: ')}"
    return in_words(mistake)
