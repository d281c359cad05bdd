"""A tiny HTTP server that speaks OpenAI's chat completions: answers come from a function of the request's body."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]
PROVENANCE = {"kind": "estimated", "source": "a model", "relative_uncertainty": 0.3}


class OpenAIDouble:
    """``url``, the bodies and headers it got, and how it answers: ``reply(body) -> (status, headers, json or text)``."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply], models: list[dict[str, Any]]) -> None:
        self.reply = reply
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


def completion(calls: list[tuple[str, dict[str, Any]]] | None = None, content: str | None = None, **usage: Any) -> Reply:
    entries = [
        {"id": f"c{i}", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
        for i, (n, a) in enumerate(calls or [])
    ]
    message = {"role": "assistant", "content": content, **({"tool_calls": entries} if entries else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if entries else "stop"}
    return 200, {}, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3, **usage}}


@contextmanager
def serve_double(reply: Callable[[dict[str, Any]], Reply], models: list[dict[str, Any]] | None = None) -> Iterator[OpenAIDouble]:
    double = OpenAIDouble(reply, models or [{"id": "m"}])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _send(self, answer: Reply) -> None:
            status, headers, data = answer
            body = (data if isinstance(data, str) else json.dumps(data)).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            double.headers.append(dict(self.headers))
            self._send((200, {}, {"object": "list", "data": double.models}) if self.path == "/v1/models" else (404, {}, "?"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            double.bodies.append(body)
            double.headers.append(dict(self.headers))
            self._send(double.reply(body) if self.path == "/v1/chat/completions" else (404, {}, "?"))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
