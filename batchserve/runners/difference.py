"""How far the answers of a changed model are from those of the unchanged one: pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """What comparing the answers to the same inputs has shown.

    Attributes:
        largest: between two numbers of the answers.
        magnitude: the largest number in the unchanged one's answers.
        inputs: how many were compared.
        same_best: for how many of them the best class is the same; None: answers are no scores.
        lead: for the others, by how much the unchanged one preferred its own best class to the one
            that is best now; the largest.
    """

    largest: float
    magnitude: float
    inputs: int
    same_best: int | None = None
    lead: float = 0.0

    @property
    def weight(self) -> float:
        """The difference as tolerances mean it: of scores as it is, otherwise as a share."""
        return self.largest if self.same_best is not None else self.largest / (self.magnitude or 1)

    def within(self, tolerance: float) -> bool:
        """Whether the answers are as good: they differ by no more, and name the same best class.

        Of two classes that are no further apart than that, either is as good.
        """
        return self.weight <= tolerance and self.lead <= tolerance

    def __str__(self) -> str:
        inputs = f"{self.inputs} input{'' if self.inputs == 1 else 's'}"
        if self.same_best is None:
            return f"differ by up to {self.weight:.2g} of the largest number, for {inputs}"
        return (
            f"differ by up to {self.largest:.2g}, and the best class is the same for "
            f"{self.same_best} of {inputs}"
            f"{'' if self.same_best == self.inputs else f'; it had led by up to {self.lead:.2g}'}"
        )
