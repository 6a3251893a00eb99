"""Certificates of many nodes as one table: a row a node, also for those that did not answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CaptureError, SlmtraceError
from ..output.plain import plain
from ..output.summary import as_mapping
from .certificate import SCHEMA, read_certificate
from .judge import FAIL, Check

# What became of a node: its certificate is there; it died; it did not answer in time; its run failed.
OK, DEAD, HUNG, FAILED = "ok", "dead", "hung", "failed"
_GIB = 1 << 30
_PREFIX = "slmtrace: "
Row = dict[str, Any]


def make_row(node: str, certificate: Mapping[str, Any]) -> Row:
    """Return a certificate as one flat row: numbers, and each window's phases and causes in seconds."""
    failed = [check for check in (Check(**one) for one in certificate["checks"]) if check.status == FAIL]
    row: Row = {
        "node": node,
        "status": OK,
        "reason": "; ".join(check.text for check in failed),
        "verdict": str(certificate["verdict"]),
        "sku": find_sku(certificate),
        "created": str(certificate["created"]),
    }
    for group in ("measures", "floors"):
        row |= {str(name): float(value) for name, value in certificate[group].items()}
    for label, window in certificate["windows"].items():
        row |= {f"{label}.{name}_s": ns / 1e9 for name, ns in {**window["phases"], **window["causes"]}.items()}
    return row


def missing_row(node: str, status: str, reason: str) -> Row:
    """Return the row of a node that gave no certificate."""
    return {"node": node, "status": status, "reason": plain(reason, 400), "verdict": "fail", "sku": "", "created": ""}


def find_sku(certificate: Mapping[str, Any]) -> str:
    """Return what kind of node it is, and of which model: numbers of one kind are compared, and with no others."""
    engine, host = as_mapping(certificate["engine"]), as_mapping(certificate["host"])
    memory_gib = round(int(host.get("memory_bytes") or 0) / _GIB)
    gpus = as_mapping(as_mapping(certificate["state"]).get("gpu")).get("gpus")
    names = [plain(as_mapping(gpu).get("name")) for gpu in gpus] if isinstance(gpus, list) else []
    cpu = plain(host.get("cpu") or "unknown CPU")
    model = plain(f"{engine.get('engine')} {engine.get('model')}")
    return " · ".join([f"{cpu} x {host.get('cpus_usable') or host.get('cpus')}", f"{memory_gib} GiB", *names, model])


def collect_rows(directory: Path) -> list[Row]:
    """Read a directory of certificates, NODE.json each or NODE/certificate.json; what is none becomes a failed row.

    Raises:
        CaptureError: there is no such file at all.
    """
    paths = sorted({*directory.glob("*.json"), *directory.glob("*/certificate.json")})
    if not paths:
        raise CaptureError(f"{directory} holds no certificates", hint="srun slmtrace certify --json > DIR/$NODE.json")
    rows = []
    for path in paths:
        node = path.parent.name if path.name == "certificate.json" and path.parent != directory else path.stem
        try:
            rows.append(make_row(node, read_certificate(path).data))
        except (CaptureError, KeyError, TypeError, ValueError, AttributeError) as error:
            rows.append(missing_row(node, FAILED, str(error)))
    return rows


def parse_answer(node: str, output: str, code: int, error: str) -> Row:
    """Return the row of what `slmtrace certify --json` printed on a node."""
    try:
        data = json.loads(output)
        if data["schema"] != SCHEMA:
            raise ValueError("another schema")
        return make_row(node, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return missing_row(node, FAILED, f"exit code {code}{_last_words(error)}")


def _last_words(error: str) -> str:
    """Return what a program said last: our message with its remedy, or whatever line it was."""
    lines = error.strip().splitlines()
    ours = [number for number, line in enumerate(lines) if line.startswith(_PREFIX)]
    words = lines[ours[-1] :] if ours else lines[-1:]
    return "".join(f"; {line.strip().removeprefix(_PREFIX)}" for line in words)


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write the table.

    Raises:
        SlmtraceError: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    names = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)


def read_parquet(paths: Iterable[Path]) -> dict[str, list[Any]]:
    """Read tables as columns, one below the other; of a node that is in several, each row counts.

    Raises:
        CaptureError: one is no such table.
        SlmtraceError: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    tables = []
    for path in paths:
        try:
            tables.append(parquet.read_table(path))
        except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of these
            raise CaptureError(f"{path} is no Parquet table", hint="name a file of slmtrace fleet") from error
        if not {"node", "status", "sku", "verdict"} <= set(tables[-1].column_names):
            raise CaptureError(f"{path} is no table of a fleet", hint="name a file of slmtrace fleet")
    merged = pyarrow.concat_tables(tables, promote_options="permissive")
    columns: dict[str, list[Any]] = merged.to_pydict()
    return columns


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise SlmtraceError("Parquet needs pyarrow", hint="pip install 'slmtrace[fleet]'") from error
    return pyarrow, pyarrow.parquet
