"""What handlers find in the application and in a request."""

from aiohttp import web

from batchserve.administration import Administration
from batchserve.config import Config
from batchserve.decoding import CodecPool
from batchserve.history_log import HistoryLog
from batchserve.inference import Answer
from batchserve.leaving import Traffic
from batchserve.metrics import Metrics
from batchserve.model_stats import ModelStats
from batchserve.records import RequestRecord
from batchserve.repository import ModelRepository, ModelVersion, Trial
from batchserve.repository.follower import Follower
from batchserve.shadow import Shadow
from batchserve.trace import Trace
from batchserve.web.fast_path.services import Services
from batchserve.web.fetch import Fetcher

CONFIG = web.AppKey("config", Config)
REPOSITORY = web.AppKey("repository", ModelRepository)
# These two only if there is administration.
FOLLOWER = web.AppKey("follower", Follower)
ADMINISTRATION = web.AppKey("administration", Administration)
# Only if requests are not traced.
FAST_PATH = web.AppKey("fast_path", Services)
POOL = web.AppKey("pool", CodecPool)
METRICS = web.AppKey("metrics", Metrics)
HISTORY = web.AppKey("history", HistoryLog)
FETCHER = web.AppKey("fetcher", Fetcher)
MODEL_STATS = web.AppKey("model_stats", ModelStats)
TRACE = web.AppKey("trace", Trace)
TRAFFIC = web.AppKey("traffic", Traffic)
SHADOW = web.AppKey("shadow", Shadow)

REQUEST_ID = web.RequestKey("request_id", str)
SECONDS = web.RequestKey("seconds", float)
# On the clock of batchers, as `time.monotonic`; a client's timeout counts from here.
ARRIVED_S = web.RequestKey("arrived_s", float)
MODEL = web.RequestKey("model", ModelVersion)
TRIAL = web.RequestKey("trial", Trial)
ANSWER = web.RequestKey("answer", Answer)
CODE = web.RequestKey("code", str)
RECORD = web.RequestKey("record", RequestRecord)
