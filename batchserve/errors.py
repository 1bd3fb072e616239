"""What can go wrong, as one tree.

HTTP body ──decode──▶ item ──▶ queue ──▶ batch ──forward──▶ row ──encode──▶ HTTP response
  400 403 404 413    422      503        504      500           500
  406 415

BatchserveError
├── StartupError               read by the operator; the server does not start
│   ├── ConfigError              a key, a value, or two that contradict each other
│   └── LoadError                a model that cannot be loaded or warmed up
└── RequestError               read by the client, as {"error": …, "code": …}
    ├── BadRequest        400    not JSON, not multipart, a field missing or of the wrong type
    ├── Unauthorized      401    no key or token, or a wrong one
    ├── Forbidden         403    what the operator has not allowed
    ├── NotFound          404    no such path, model or version
    ├── MethodNotAllowed  405
    ├── NotAcceptable     406    no media type that the client accepts can hold the answer
    ├── Conflict          409    what cannot be done to a model as it is now
    ├── TooLarge          413    body, image or number of inputs over the limit that is named
    ├── UnsupportedMedia  415    a content type that the model's task does not read
    ├── InvalidInput      422    it parses, but it is no valid input for this model
    ├── LoadFailed        422    a version that some worker could not load
    ├── ModelFailed       500    the model failed on this item
    ├── InternalError     500    we failed
    ├── Unavailable       503    try again after `retry_after_s`
    │   ├── QueueFull              no place in the queue
    │   ├── Overloaded             the answer would come too late
    │   ├── Draining
    │   ├── NotReady
    │   └── StoreUnavailable       where the workers' agreement is kept
    └── DeadlineExceeded  504    not computed, or computed too late
"""

from typing import ClassVar


class BatchserveError(Exception):
    """The root of everything that batchserve raises on purpose."""


class StartupError(BatchserveError):
    """The server cannot start as configured."""


class ConfigError(StartupError):
    """A key or a value in the configuration is wrong."""


class LoadError(StartupError):
    """A model cannot be loaded or warmed up."""


class RequestError(BatchserveError):
    """An answer other than 200, with its HTTP status and a code that programs can match."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class BadRequest(RequestError):
    status = 400
    code = "bad_request"


class Unauthorized(RequestError):
    status = 401
    code = "unauthorized"


class Forbidden(RequestError):
    status = 403
    code = "forbidden"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class NotAcceptable(RequestError):
    status = 406
    code = "not_acceptable"


class Conflict(RequestError):
    status = 409
    code = "conflict"


class TooLarge(RequestError):
    status = 413
    code = "too_large"


class UnsupportedMedia(RequestError):
    status = 415
    code = "unsupported_media_type"


class InvalidInput(RequestError):
    status = 422
    code = "invalid_input"


class LoadFailed(RequestError):
    status = 422
    code = "load_failed"


class ModelFailed(RequestError):
    status = 500
    code = "model_failed"


class InternalError(RequestError):
    status = 500
    code = "internal_error"


class Unavailable(RequestError):
    """Nothing was computed.

    Args:
        message: what the client reads.
        retry_after_s: whole seconds after which another try makes sense.
    """

    status = 503
    code = "unavailable"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    code = "queue_full"


class Overloaded(Unavailable):
    code = "overloaded"


class Draining(Unavailable):
    code = "draining"


class NotReady(Unavailable):
    code = "model_not_ready"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class DeadlineExceeded(RequestError):
    status = 504
    code = "deadline_exceeded"
