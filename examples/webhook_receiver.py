"""Receives Jitney webhooks: verifies signatures, skips duplicates, prints jobs. Needs only the standard library.

SECRET=whsec_... python3 examples/webhook_receiver.py     (secret: GET /v1/webhooks/secret; JITNEY_PORT sets the port)
"""

import base64
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

KEY = base64.b64decode(os.environ["SECRET"].removeprefix("whsec_"))
handled = set()  # in production, a unique column in a database: the same id may come again days later


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers["content-length"]), 65_536))
        webhook_id, sent_at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        expected = base64.b64encode(hmac.digest(KEY, f"{webhook_id}.{sent_at}.".encode() + body, "sha256"))
        signatures = [part.removeprefix("v1,").encode() for part in self.headers["webhook-signature"].split()]
        is_fresh = abs(time.time() - int(sent_at)) < 300
        is_valid = is_fresh and any(hmac.compare_digest(expected, signature) for signature in signatures)
        if is_valid and webhook_id not in handled:
            handled.add(webhook_id)
            message = json.loads(body)
            print(message["type"], message["data"]["id"], message["data"]["output"], flush=True)
        self.send_response(204 if is_valid else 401)
        self.end_headers()


HTTPServer(("127.0.0.1", int(os.environ.get("JITNEY_PORT", "9000"))), Receiver).serve_forever()
