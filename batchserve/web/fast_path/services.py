"""What the fast path uses of the application."""

from dataclasses import dataclass

from batchserve.decoding import CodecPool
from batchserve.leaving import Traffic
from batchserve.web.answering import Counting


@dataclass(frozen=True, slots=True)
class Services:
    """What exchanges use.

    Attributes:
        pool: for encoding what is large.
        traffic: to which each belongs as long as it lasts.
        counting: of what was answered.
        default_timeout_ms: the deadline of those who state none.
    """

    pool: CodecPool
    traffic: Traffic
    counting: Counting
    default_timeout_ms: float
