"""A version that is tried beside the current one: a canary, a shadow, or both."""

from dataclasses import dataclass
from hashlib import blake2b

from batchserve.repository.version import ModelVersion

BITS = 64


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate that would answer now.

    Attributes:
        version: the candidate.
        share: of the requests that name no version, from 0 to 1, it answers.
        shadow: it gets copies of what the current one has answered.
    """

    version: ModelVersion
    share: float
    shadow: bool

    def takes(self, request_id: str) -> bool:
        """Whether a request is one of its share.

        That rests on the request's id alone, so that every worker of every machine says the same,
        and who sends a request again under its id meets the same version.
        """
        text = f"{self.version.key} {request_id}".encode()
        number = int.from_bytes(blake2b(text, digest_size=BITS // 8).digest())
        return number < self.share * (1 << BITS)
