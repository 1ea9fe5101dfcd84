"""OpenAPI schemas, request body and responses of the routes of webhooks."""

from typing import Any

from jobs.contract.webhook_request import MAX_HEADERS, MAX_VALUE_CHARS, WEBHOOK_EVENTS
from jobs.webhooks.delivery_log import STATES

_TEXT = {"type": "string"}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_URL = {"type": "string", "format": "uri", "description": "https://host/path; public addresses only"}
WEBHOOK = {
    "anyOf": [
        _URL,
        {
            "type": "object",
            "required": ["url"],
            "additionalProperties": False,
            "properties": {
                "url": _URL,
                "events": {"type": "array", "items": {"type": "string", "enum": list(WEBHOOK_EVENTS)}},
                "headers": {
                    "type": "object",
                    "maxProperties": MAX_HEADERS,
                    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_VALUE_CHARS},
                    "description": "sent to the receiver, for example Authorization; never returned",
                },
            },
        },
    ]
}
_ATTEMPT = {
    "type": "object",
    "properties": {
        "at": _TIME,
        "ms": {"type": ["number", "null"]},
        "status": {"type": ["integer", "null"]},
        "error": {"type": ["string", "null"]},
        "location": {"type": ["string", "null"], "description": "target of a redirect, which is not followed"},
    },
}
DELIVERY = {
    "type": "object",
    "required": ["id", "job", "type", "url", "endpoint", "state", "created_at", "tries", "attempts", "urls"],
    "properties": {
        "id": {"type": "string", "description": "the webhook-id, the same for all attempts"},
        "job": _TEXT,
        "type": {"type": "string", "enum": list(WEBHOOK_EVENTS)},
        "url": _TEXT,
        "endpoint": _TEXT,
        "state": {"type": "string", "enum": list(STATES)},
        "created_at": _TIME,
        "ended_at": _TIME,
        "next_attempt_at": _TIME,
        "tries": {"type": "integer"},
        "attempts": {"type": "array", "items": _ATTEMPT},
        "urls": {"type": "object"},
    },
}
_COUNT = {"type": "integer"}
ENDPOINT = {
    "type": "object",
    "required": ["id", "origin", "waiting", "under_way", "slow", "failures"],
    "properties": {
        "id": _TEXT,
        "origin": _TEXT,
        **dict.fromkeys(("waiting", "under_way", "failures"), _COUNT),
        "slow": {"type": "boolean"},
        **dict.fromkeys(("failing_since", "paused_until", "last_success_at"), _TIME),
        "urls": {"type": "object"},
    },
}
SECRET = {
    "type": "object",
    "required": ["key"],
    "properties": {"key": _TEXT, "previous": {"type": ["string", "null"], "description": "signs until it expires"}},
}
SCHEMAS = {
    "Webhook": WEBHOOK,
    "Delivery": DELIVERY,
    "DeliveryList": {
        "type": "object",
        "properties": {
            "deliveries": {"type": "array", "items": {"$ref": "#/components/schemas/Delivery"}},
            "next_cursor": {"type": ["string", "null"]},
        },
    },
    "EndpointList": {
        "type": "object",
        "properties": {"endpoints": {"type": "array", "items": {"$ref": "#/components/schemas/Endpoint"}}},
    },
    "Endpoint": ENDPOINT,
    "WebhookSecret": SECRET,
}
# path → method → schemas of its responses by status; without one, an object with the result
RESPONSES: dict[str, dict[str, dict[str, str]]] = {
    "/v1/webhooks": {"get": {"_200": "DeliveryList"}},
    "/v1/webhooks/replay": {"post": {}},
    "/v1/webhooks/endpoints": {"get": {"_200": "EndpointList"}},
    "/v1/webhooks/secret": {"get": {"_200": "WebhookSecret"}},
    "/v1/webhooks/secret/rotate": {"post": {"_200": "WebhookSecret"}},
    "/v1/webhooks/{delivery_id}": {"get": {"_200": "Delivery"}},
    "/v1/webhooks/{delivery_id}/replay": {"post": {"_202": "Delivery"}},
    "/v1/jobs/{job_id}/webhook": {"put": {"_202": "Delivery"}},
}


def describe_webhook_body(route: dict[str, Any]) -> None:
    """Add the request body of the route that attaches a webhook."""
    schema = {"$ref": "#/components/schemas/Webhook"}
    route["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
