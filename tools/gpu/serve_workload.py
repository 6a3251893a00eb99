"""Serve a model with transformers over HTTP, on the GPU: what tools/gpu/attach.py attaches to.

Usage: serve_workload.py MODEL [--prompt-tokens N] [--device NAME]
Prints its port once the model is loaded. A POST to any path is answered by the first token of a fixed prompt.
"""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, HTTPServer

from hf_workload import load
from transformers import AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=161)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = load(args.model, args.device)
    prompt = " ".join(["free"] * args.prompt_tokens)

    class Handler(BaseHTTPRequestHandler):
        """Answers each request when its token is there."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=args.prompt_tokens)
            tokens = model.generate(**inputs.to(model.device), max_new_tokens=1, min_new_tokens=1, do_sample=False)
            body = str(int(tokens[0, -1])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Keep still."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
