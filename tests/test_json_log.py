"""The server's log as JSON."""

import json
import logging
import sys

from gunicorn.config import Config

from batchserve.json_log import JsonFormatter, JsonLogger


def record(message: str, *arguments: object, **kwargs) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "f.py", 1, message, arguments, None, **kwargs)


def test_a_record_is_an_object_on_one_line():
    line = JsonFormatter().format(record('two\nlines of "%s"', "text"))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert isinstance(fields.pop("pid"), int)
    assert fields == {"level": "warning", "message": 'two\nlines of "text"'}


def test_a_traceback_is_a_field():
    failed = record("it failed")
    try:
        raise ValueError("no such luck")
    except ValueError:
        failed.exc_info = sys.exc_info()
    line = JsonFormatter().format(failed)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["traceback"].endswith("ValueError: no such luck")


def test_gunicorns_own_lines_are_json(tmp_path):
    config = Config()
    path = tmp_path / "error.log"
    config.set("errorlog", str(path))
    logger = JsonLogger(config)
    logger.info("Starting gunicorn %s", "1")
    assert json.loads(path.read_text())["message"] == "Starting gunicorn 1"
    for handler in list(logger.error_log.handlers):
        logger.error_log.removeHandler(handler)
        handler.close()
