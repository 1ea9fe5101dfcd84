"""Client of Jitney: `Jitney` and `AsyncJitney` submit jobs, wait, follow, map over many inputs and run batches."""

from jitney_client.arrays import to_array, to_arrays
from jitney_client.async_client import AsyncBatch, AsyncJitney, AsyncJob
from jitney_client.client import VERSION, Batch, Jitney, Job
from jitney_client.errors import (
    ApiError,
    BatchFailed,
    ConnectionFailed,
    InvalidSignature,
    JitneyError,
    JobCanceled,
    JobExpired,
    JobFailed,
    NotFound,
    Overloaded,
    Unauthorized,
    WaitTimeout,
)
from jitney_client.views import BatchResult, Event, MapResult
from jitney_client.webhooks import verify_webhook

__version__ = VERSION
__all__ = [
    "ApiError",
    "AsyncBatch",
    "AsyncJitney",
    "AsyncJob",
    "Batch",
    "BatchFailed",
    "BatchResult",
    "ConnectionFailed",
    "Event",
    "InvalidSignature",
    "Jitney",
    "JitneyError",
    "Job",
    "JobCanceled",
    "JobExpired",
    "JobFailed",
    "MapResult",
    "NotFound",
    "Overloaded",
    "Unauthorized",
    "WaitTimeout",
    "to_array",
    "to_arrays",
    "verify_webhook",
]
