#!/usr/bin/env python3
"""Receive spans by OTLP/HTTP on loopback, and write them as OTLP JSON, one request a line, until interrupted.

    tools/otlp_receiver.py spans.jsonl [--port 4318]

    export OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf
    vllm serve MODEL --otlp-traces-endpoint http://127.0.0.1:4318/v1/traces

Needs opentelemetry-proto: an environment with OpenTelemetry's exporter, such as vLLM's own, has it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.server
import json
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = ("traceId", "spanId", "parentSpanId")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--port", type=int, default=4318)
    options = parser.parse_args()
    with (
        options.out.open("a", encoding="utf-8") as out,
        http.server.HTTPServer(("127.0.0.1", options.port), _handler(out)) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        server.serve_forever()


def _handler(out: Any) -> type[http.server.BaseHTTPRequestHandler]:
    """Return a handler that appends each request to `out`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            out.write(json.dumps(to_otlp_json(ExportTraceServiceRequest.FromString(body)), sort_keys=True) + "\n")
            out.flush()
            # An empty ExportTraceServiceResponse: all of it was accepted.
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def to_otlp_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """Encode a request as JSON: by the rules of protobuf, but ids in hexadecimal (OTLP, "JSON Protobuf Encoding")."""
    encoded: dict[str, Any] = MessageToDict(request)
    for resource in encoded["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                span.update({name: base64.b64decode(span[name]).hex() for name in _IDS if name in span})
    return encoded


if __name__ == "__main__":
    main()
