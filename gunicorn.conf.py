"""gunicorn -c gunicorn.conf.py 'batchserve.app:create_app', with BATCHSERVE_CONFIG or config.yaml."""

import os

from batchserve.errors import ConfigError
from batchserve.gunicorn_settings import gunicorn_settings

try:
    globals().update(gunicorn_settings(os.environ))
except ConfigError as error:
    raise SystemExit(str(error)) from None
