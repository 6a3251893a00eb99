"""Options that several commands have, each with one name, one meaning and one default."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..probes.base import COLLECTOR_SOCKET
from ..studies.forms import FORMS

engine = click.option(
    "--engine",
    type=click.Choice(["hf", "vllm"]),
    default="hf",
    show_default=True,
    help="hf: Hugging Face transformers; vllm: a vLLM server on this machine, and a client that streams.",
)
model = click.option(
    "--model",
    "model_name",
    metavar="DIR|NAME",
    default="tiny",
    show_default=True,
    help="A model directory, or a probe model (see slmtrace model --help), made at its first use.",
)
prompt_tokens = click.option(
    "--prompt-tokens", "n_prompt_tokens", metavar="N", type=click.IntRange(min=1), default=128, show_default=True
)
tier = click.option(
    "--tier",
    type=click.Choice(["light", "deep"]),
    default="light",
    show_default=True,
    help="How much to record: deep adds Python stacks, every CUDA call and kernels inside graphs, and costs more.",
)
emit = click.option(
    "--emit",
    "snippet_form",
    type=click.Choice(FORMS),
    help="Print what is recommended alone, as a snippet.",
)
probes = click.option("--probes", metavar="LIST", help="Record with these probes only, such as ranges,proc.")


def _name_socket(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Name the socket as the variable does: every recording of this command asks there."""
    if path is not None:
        os.environ[COLLECTOR_SOCKET] = str(path)


collector_socket = click.option(
    "--collector-socket",
    metavar="PATH",
    type=click.Path(path_type=Path, readable=False),
    envvar=COLLECTOR_SOCKET,
    show_envvar=True,
    expose_value=False,
    callback=_name_socket,
    help="Ask the service at this socket (slmtrace collector) for the eBPF probe; it needs no privileges here.",
)
