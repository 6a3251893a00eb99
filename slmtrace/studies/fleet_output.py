"""A fleet as text and as a heat map."""

from __future__ import annotations

import numpy as np

from ..output.html.markup import page, table, text
from ..output.plain import plain
from .outliers import MIN_NODES, MIN_Z, FleetComparison, Outlier

_MAX_LINES, _MAX_ROWS = 20, 500


def render_fleet_text(fleet: FleetComparison) -> str:
    """Render the nodes that are missing, unfit or off, and the medians of each kind."""
    named = [
        [f"{plain(node)}: {status}, {plain(reason)}" for node, status, reason in fleet.missing],
        [f"{plain(node)}: its certificate fails, {plain(reason)}" for node, reason in fleet.failed],
        [_outlier(one) for one in fleet.outliers],
    ]
    lines = [_headline(fleet), "", *(line for group in named for line in group[:_MAX_LINES])]
    hidden = sum(len(group[_MAX_LINES:]) for group in named)
    lines += [f"and {hidden} more"] if hidden else []
    for kind in fleet.kinds:
        lines += ["", f"{plain(kind.sku)}, {kind.n_nodes} nodes: median (MAD)"]
        lines += [f"  too few to compare, {MIN_NODES} are needed"] if kind.n_nodes < MIN_NODES else []
        lines += [f"  {name:<32} {median:.4g} ({mad:.2g})" for name, (median, mad) in kind.middle.items()]
    return "\n".join(lines) + "\n"


def render_fleet_html(fleet: FleetComparison) -> str:
    """Render one self-contained page: the outliers, and a heat map of the worst nodes."""
    off = [
        [text(one.node), text(one.metric), f"{one.value:.4g}", f"{one.median:.4g}", f"{one.z:.1f}", text(one.where)]
        for one in fleet.outliers[:_MAX_ROWS]
    ]
    failed = [[text(node), text(reason)] for node, reason in fleet.failed[:_MAX_ROWS]]
    missing = [[text(node), text(status), text(reason)] for node, status, reason in fleet.missing[:_MAX_ROWS]]
    worst: list[int] = []
    if fleet.badness.size:
        worst = np.argsort(-fleet.badness.max(axis=1), kind="stable")[:_MAX_ROWS].tolist()
    heat = [[text(fleet.nodes[row]), *(_cell(float(z)) for z in fleet.badness[row])] for row in worst]
    body = [
        "<h1>Fleet</h1>",
        f"<p>{_headline(fleet)}.</p>",
        table(["node", "status", "reason"], missing, wide=["reason"], caption="no certificate"),
        table(["node", "failed checks"], failed, wide=["failed checks"], caption="certificates that fail"),
        table(["node", "number", "value", "median", "z", "cause"], off, caption="outliers, the worst first"),
        "<h2>Heat map</h2><p>Distance from the median of the kind, in deviations; worse is positive.</p>",
        table(["node", *fleet.metrics], heat),
    ]
    return page("slmtrace fleet", body)


def _headline(fleet: FleetComparison) -> str:
    return (
        f"{len(fleet.nodes)} certificates, of which {len(fleet.failed)} fail and {len(fleet.outliers)} are outliers; "
        f"{len(fleet.missing)} nodes without"
    )


def _outlier(one: Outlier) -> str:
    where = f", mostly {one.where}" if one.where else ""
    return f"{plain(one.node)}: {one.metric} {one.value:.4g}, {one.factor:.2f} x the median (z {one.z:.0f}){where}"


def _cell(z: float) -> str:
    strength = round(100 * min(1.0, max(0.0, z) / (2 * MIN_Z)))
    return f'<span style="background:color-mix(in srgb, var(--kernel_warmup) {strength}%, transparent)">{z:+.1f}</span>'
