"""Serves the example page, and submits its images with the API key, which the page does not get.

JITNEY_API_KEY=jk_... python3 examples/browser/backend.py      then open http://localhost:3000

JITNEY_URL is the gateway, JITNEY_PORT the port of the page. A real backend first checks who the user is.
"""

import os
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

GATEWAY = os.environ.get("JITNEY_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("JITNEY_API_KEY", "")
MAX_BYTES = 10_000_000
FILES = ("/", "/page.js")


class Backend(SimpleHTTPRequestHandler):
    def __init__(self, *args):
        super().__init__(*args, directory=Path(__file__).parent)

    def do_GET(self):
        super().do_GET() if self.path in FILES else self.send_error(404)

    def do_POST(self):
        """Submit an image; answer the paths of its job, with a token that reads this job for ten minutes."""
        size = int(self.headers["content-length"])
        if self.path != "/submit" or size > MAX_BYTES:
            return self.send_error(404 if self.path != "/submit" else 413)
        try:
            location, _ = call("/v1/jobs?model=digits", self.rfile.read(size), self.headers["content-type"])
            _, token = call(f"{location}/token", b'{"ttl_s": 600}', "application/json")
        except HTTPError as error:
            return self.send(error.code, error.read())
        return self.send(200, token)

    def send(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def call(path, body, content_type):
    """Send a request to the gateway; return the Location and the body of the answer."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": content_type}
    with urlopen(Request(GATEWAY + path, body, headers), timeout=30) as answer:
        return answer.headers["location"], answer.read()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("JITNEY_PORT", "3000"))), Backend).serve_forever()
