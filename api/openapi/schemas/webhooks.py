"""Schemas of webhooks: a receiver, deliveries and their attempts, endpoints, the signing secret."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from api.openapi.schemas.bodies import RequestBody, ResponseBody
from jobs.contract.webhook_request import MAX_HEADERS, MAX_NAME_CHARS, MAX_VALUE_CHARS, WEBHOOK_EVENTS
from jobs.webhooks.delivery_log import STATES

HeaderName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]
HeaderValue = Annotated[str, StringConstraints(min_length=1, max_length=MAX_VALUE_CHARS)]
WebhookUrl = Annotated[
    str, Field(json_schema_extra={"format": "uri"}, description="`https://host/path`. Only public addresses.")
]
WebhookEvent = Annotated[str, Field(json_schema_extra={"enum": list(WEBHOOK_EVENTS)})]
WebhookHeaders = Annotated[dict[HeaderName, HeaderValue], Field(max_length=MAX_HEADERS)]
_DELIVERY_ID = "0013e2758e9abaf43ddddbb58a3255b83f-1"


class WebhookReceiver(RequestBody):
    """A receiver of webhooks, its events, and headers for it."""

    url: WebhookUrl
    events: list[WebhookEvent] = Field(default_factory=list)
    """Empty: all events."""
    headers: WebhookHeaders = Field(default_factory=dict)
    """Sent to the receiver, such as Authorization. They are never returned."""

    example: ClassVar[dict[str, Any]] = {
        "url": "https://receiver.example/hook",
        "events": ["job.succeeded"],
        "headers": {"Authorization": "Bearer secret"},
    }


Webhook = WebhookUrl | WebhookReceiver


class Attempt(ResponseBody):
    """One request to the receiver."""

    at: datetime | None
    ms: float | None
    """How long it took."""
    status: int | None
    """The HTTP status that the receiver answered."""
    error: str | None
    location: str | None
    """The target of a redirect, which is not followed."""


class DeliveryUrls(ResponseBody):
    """Paths of a delivery's routes."""

    self: str
    replay: str
    job: str


class Delivery(ResponseBody):
    """The notification of one job's end to one URL."""

    id: str
    """The `webhook-id`, which is the same for all attempts."""
    job: str
    url: str
    endpoint: str
    """The id of the receiver."""
    type: str
    """The event, such as `job.succeeded`, or `batch.completed`."""
    state: Annotated[str, Field(json_schema_extra={"enum": list(STATES)})]
    created_at: datetime
    ended_at: datetime | None
    next_attempt_at: datetime | None
    tries: int
    attempts: list[Attempt]
    """The newest attempts, oldest first."""
    urls: DeliveryUrls

    example: ClassVar[dict[str, Any]] = {
        "id": _DELIVERY_ID,
        "job": "0013e2758e9abaf43ddddbb58a3255b83f",
        "url": "https://receiver.example/hook",
        "endpoint": "3f9c1b0a5d7e2468",
        "type": "job.succeeded",
        "state": "delivered",
        "created_at": "2026-01-31T09:30:00.000Z",
        "ended_at": "2026-01-31T09:30:00.120Z",
        "next_attempt_at": None,
        "tries": 1,
        "attempts": [
            {"at": "2026-01-31T09:30:00.020Z", "ms": 98.5, "status": 204, "error": None, "location": None},
        ],
        "urls": {
            "self": f"/v1/webhooks/{_DELIVERY_ID}",
            "replay": f"/v1/webhooks/{_DELIVERY_ID}/replay",
            "job": "/v1/jobs/0013e2758e9abaf43ddddbb58a3255b83f",
        },
    }


class DeliveryList(ResponseBody):
    """A page of deliveries."""

    deliveries: list[Delivery]
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"deliveries": [Delivery.example], "next_cursor": None}


class ResentDeliveries(ResponseBody):
    """How many deliveries were made due again."""

    replayed: int
    more: bool
    """True: call again with `next_cursor`."""
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"replayed": 3, "more": False, "next_cursor": None}


class AttachedWebhook(ResponseBody):
    """A webhook that was attached to a job."""

    job: str
    state: str
    """`attached`: the job has not ended. Else what became of the call."""

    example: ClassVar[dict[str, Any]] = {"job": "0013e2758e9abaf43ddddbb58a3255b83f", "state": "attached"}


class EndpointUrls(ResponseBody):
    """Paths of an endpoint's routes."""

    deliveries: str


class Endpoint(ResponseBody):
    """A receiver of webhooks and its state."""

    id: str
    origin: str
    """Scheme, host and port."""
    waiting: int
    under_way: int
    slow: bool
    """True: it did not answer in time, and gets its attempts from a slow lane."""
    failures: int
    """Failures since the last success."""
    failing_since: datetime | None
    paused_until: datetime | None
    last_success_at: datetime | None
    urls: EndpointUrls


class EndpointList(ResponseBody):
    """The receivers, the last used first."""

    endpoints: list[Endpoint]

    example: ClassVar[dict[str, Any]] = {
        "endpoints": [
            {
                "id": "3f9c1b0a5d7e2468",
                "origin": "https://receiver.example",
                "waiting": 0,
                "under_way": 0,
                "slow": False,
                "failures": 0,
                "failing_since": None,
                "paused_until": None,
                "last_success_at": "2026-01-31T09:30:00.120Z",
                "urls": {"deliveries": "/v1/webhooks?endpoint=3f9c1b0a5d7e2468"},
            }
        ]
    }


class WebhookSecret(ResponseBody):
    """The secret that signs webhooks."""

    key: str
    previous: str | None
    """Signs too, until it expires."""

    example: ClassVar[dict[str, Any]] = {"key": "whsec_bm90IGEgcmVhbCBzZWNyZXQ=", "previous": None}
