"""The server's log as JSON, an object a line: `server.log_format: json`."""

import logging
import time
from typing import Any

import orjson
from gunicorn.glogging import Logger


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "pid": …, "message": …}`, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


class JsonLogger(Logger):  # type: ignore[misc]
    """Gunicorn's logger, with the error log as JSON; the access log makes its own lines."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(JsonFormatter())
