"""What forward passes have cost lately."""


class Cost:
    """Seconds of forward pass per item, following changes of speed within some ten batches."""

    WEIGHT_OF_NEWEST = 0.2

    def __init__(self) -> None:
        self._seconds_per_item: float | None = None

    def observe(self, size: int, forward_s: float) -> None:
        newest = forward_s / size
        known = self._seconds_per_item
        self._seconds_per_item = (
            newest if known is None else known + self.WEIGHT_OF_NEWEST * (newest - known)
        )

    def seconds_for(self, items: int) -> float:
        """Return how long `items` will take; 0 before the first observation."""
        return items * (self._seconds_per_item or 0.0)
