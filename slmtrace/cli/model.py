"""`slmtrace model NAME DIR`: a probe model with random weights."""

from __future__ import annotations

from pathlib import Path

import click

from ..engines.architectures import MODEL_NAMES
from ..engines.synthesis import make_model
from ..units import format_bytes


@click.command("model", short_help="Write a probe model with random weights.")
@click.argument("name", metavar="NAME", type=click.Choice(MODEL_NAMES))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--layers", metavar="N", type=click.IntRange(min=1), help="Another depth.")
@click.option(
    "--scale",
    metavar="F",
    type=click.FloatRange(min=0, min_open=True, max=4),
    default=1.0,
    show_default=True,
    help="Another width: so many times the heads, the hidden and the intermediate size.",
)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
def command(name: str, directory: Path, layers: int | None, scale: float, seed: int) -> None:
    """Write a probe model: a real architecture, random weights, a trained tokenizer.

    \b
    NAME           weights   architecture
    tiny           3 MB      Qwen2, 4 layers
    qwen2.5-1.5b   3.1 GB    Qwen2, 28 layers
    phi-3-mini     7.6 GB    Phi-3, 32 layers
    gpt-neox-1.3b  2.8 GB    GPT-NeoX, 24 layers

    \b
    For 0.5 GB:    slmtrace model qwen2.5-1.5b DIR --scale 0.5 --layers 12
    For 3 GB:      slmtrace model qwen2.5-1.5b DIR
    """
    size_bytes = make_model(name, directory, layers=layers, scale=scale, seed=seed)
    click.echo(f"{directory}: {name}, {format_bytes(size_bytes)} of weights")
