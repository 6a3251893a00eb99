"""A certificate as text and as a page."""

from __future__ import annotations

from ..model.taxonomy import Phase
from ..output.html.markup import page, phase_bar, swatch, table, text
from ..output.plain import plain
from ..units import format_ns
from .certificate import Certificate
from .judge import PASS
from .remedies import find_remedy


def render_certificate_text(certificate: Certificate) -> str:
    """Render the verdict, what is not healthy with its reason, and the numbers."""
    data, checks = certificate.data, certificate.checks
    bad = [one for one in checks if one.status != PASS]
    lines = [
        f"{certificate.verdict.upper()}  {_subject(certificate)}, {len(checks)} checks in {data['took_s']:.0f} s",
        "",
    ]
    for one in bad:
        lines += [f"  {one.status:<4}  {plain(one.text, 400)}", f"        try: {find_remedy(one.name)}"]
    lines += [""] if bad else []
    lines += [f"  {plain(one.text, 600)}" for one in certificate.recommendations]
    lines += [""] if certificate.recommendations else []
    lines += [f"  {name:<32} {value:.6g}" for name, value in {**data["measures"], **data["floors"]}.items()]
    return "\n".join(lines) + "\n"


def render_certificate_html(certificate: Certificate) -> str:
    """Render one self-contained page."""
    data = certificate.data
    longest = max((window["total_ns"] for window in data["windows"].values()), default=1)
    windows = []
    for name, window in data["windows"].items():
        phases = {phase: int(window["phases"].get(phase.label, 0)) for phase in Phase}
        bar = phase_bar(phases, share_of_width=window["total_ns"] / max(longest, 1), is_small=True)
        windows.append([text(name), format_ns(window["total_ns"]), bar])
    checks = [
        [
            text(one.name),
            text(one.status),
            text(one.text.removeprefix(f"{one.name}: ")),
            text(find_remedy(one.name) if one.status != PASS else ""),
        ]
        for one in certificate.checks
    ]
    numbers = [[text(name), f"{value:.6g}"] for name, value in {**data["measures"], **data["floors"]}.items()]
    kv = [
        [str(one["max_model_len"]), str(one["bytes_per_sequence"]), str(one["sequences"])] for one in data["kv_cache"]
    ]
    kind = ' class="alert"' if certificate.verdict != PASS else ""
    legend = "".join(f"<li>{swatch(phase)}{phase.label}</li>" for phase in Phase)
    body = [
        f"<h1>Node certificate: <span{kind}>{text(certificate.verdict)}</span></h1>",
        f'<p class="soft">{text(_subject(certificate))} · {text(data["created"])} · {data["took_s"]:.0f} s</p>',
        table(["check", "status", "reason", "remedy"], checks, wide=["reason", "remedy"]),
        *(f'<p class="panel">{text(one.text)}</p>' for one in certificate.recommendations),
        f'<h2>Where the time went</h2><ul class="legend">{legend}</ul>',
        table(["window", "total", "phases"], windows, wide=["phases"]),
        "<h2>Numbers</h2>",
        table(["measure", "value"], numbers),
        table(["max_model_len", "bytes a sequence", "sequences that fit"], kv, caption="KV cache, computed"),
    ]
    return page(f"slmtrace certificate: {certificate.verdict}", body)


def _subject(certificate: Certificate) -> str:
    host, engine = certificate.data["host"], certificate.data["engine"]
    return plain(f"{engine['engine']} {engine['model']} on {host.get('cpu') or 'a node'}, {host.get('cpus', '?')} CPUs")
