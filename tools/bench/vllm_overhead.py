"""What recording costs a vLLM server: load time and TTFT of a bare and of a recorded one, in interleaved pairs.

    python -m tools.bench.vllm_overhead [--servers 1] [--requests 100] [--prompt-tokens 22] [--model DIR]
        [--probes LIST]

Each pair of servers starts one after the other, in alternating order: that is the load. Then both are up, and each
request goes to one and then to the other, in alternating order. The server whose turn it is not is suspended, with all
that it started: an idle worker of vLLM spins, and would take the CPUs from the other. What stays in the kernel are the
probes of the recorded one, which look at each event of the node and pass over those of others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmtrace.engines.client import Server, ask_all
from slmtrace.engines.hf import make_prompts
from slmtrace.engines.models import find_model

from .pairs import compare, print_table
from .vllm_server import free_ports, serve, serve_command, suspended

NEW_TOKENS = 4
# After its resumption a server catches up on its timers before it is asked.
SETTLE_S = 0.2


@dataclass
class Measured:
    """What was measured, the bare server's first; ns."""

    load: list[tuple[float, float]] = field(default_factory=list)
    first: list[tuple[float, float]] = field(default_factory=list)
    later: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    args = _arguments()
    model = find_model(args.model)
    measured = Measured()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prompts_file = make_prompts(model, args.prompt_tokens, args.requests + 1, NEW_TOKENS, scratch, print)
        prompts = json.loads(prompts_file.read_text(encoding="utf-8"))
        port = free_ports()[0]
        with serve(serve_command(str(model.path), port), port):
            pass  # fills the caches for both
        for number in range(args.servers):
            _measure_pair(str(model.path), prompts, number, scratch / str(number), args.probes, measured)
    print_table(
        [
            compare(what, *zip(*pairs, strict=True))
            for what, pairs in (
                ("load", measured.load),
                ("first ttft", measured.first),
                ("later ttft", measured.later),
            )
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=1, help="pairs of servers")
    parser.add_argument("--requests", type=int, default=100, help="pairs of requests to each pair of servers")
    parser.add_argument("--prompt-tokens", type=int, default=22)
    parser.add_argument("--model", default="tiny", help="a model directory; default: the embedded tiny model")
    parser.add_argument("--probes", help="as slmtrace record --probes")
    return parser.parse_args()


def _measure_pair(
    model: str, prompts: Sequence[str], number: int, capture: Path, probes: str | None, measured: Measured
) -> None:
    ports = free_ports()
    recorder = [sys.executable, "-m", "slmtrace", "record", "-o", str(capture)]
    recorder += ["--probes", probes] if probes else []
    commands = (serve_command(model, ports[0]), [*recorder, "--", *serve_command(model, ports[1])])
    first, second = _order(number)
    with contextlib.ExitStack() as stack:
        servers = {first: stack.enter_context(serve(commands[first], ports[first]))}
        with suspended(servers[first]):
            servers[second] = stack.enter_context(serve(commands[second], ports[second]))
        measured.load.append((servers[0].load_ns, servers[1].load_ns))
        for index, prompt in enumerate(prompts):
            ttft_ns = [0.0, 0.0]
            for side in _order(index):
                with suspended(servers[1 - side]):
                    time.sleep(SETTLE_S)
                    ttft_ns[side] = _ask(ports[side], prompt, index)
            (measured.later if index else measured.first).append((ttft_ns[0], ttft_ns[1]))
            print(f"\rpair {number + 1}: request {index + 1} of {len(prompts)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _order(number: int) -> tuple[int, int]:
    return (1, 0) if number % 2 else (0, 1)


def _ask(port: int, prompt: str, index: int) -> float:
    (answer,) = ask_all(Server(port, "model", NEW_TOKENS), [prompt], 1, f"pair{index}")
    if answer.error:
        raise SystemExit(f"request {index} failed: {answer.error}")
    return float(answer.first_data_ns - answer.start_ns)


if __name__ == "__main__":
    main()
