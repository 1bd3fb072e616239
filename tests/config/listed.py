"""What a refusal lists."""


def mistakes_in(message: str) -> list[str]:
    """Return the mistakes that a message lists, one a line."""
    head, *mistakes = message.splitlines()
    assert head.endswith(" is not a valid configuration:")
    assert all(line.startswith("  ") for line in mistakes)
    return [line.strip() for line in mistakes]
