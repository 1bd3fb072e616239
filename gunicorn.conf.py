"""For `gunicorn -c gunicorn.conf.py 'batchserve.app:create_app'`.

Reads the config that BATCHSERVE_CONFIG names, config.yaml otherwise.
"""

import os

from batchserve.errors import ConfigError
from batchserve.gunicorn_settings import gunicorn_settings

try:
    globals().update(gunicorn_settings(os.environ))
except ConfigError as error:
    raise SystemExit(str(error)) from None
