"""A local Ray cluster of several raylets: a slow node is named, a dead one and a hung one are reported in time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmtrace.studies.fleet_ray import run_fleet
from slmtrace.studies.outliers import compare_fleet
from tests.unit.test_certificate import healthy_facts, make_certificate

ray = pytest.importorskip("ray", reason="ray is not installed")

# Stands for `slmtrace certify --json`; what ails a node is in the environment of its raylet.
PROGRAM = """
import json, os, signal, sys, time
certificate, mode = json.load(open(sys.argv[1])), os.environ.get("NODE_MODE", "")
if mode == "hung":
    time.sleep(600)
if mode == "dead":
    os.kill(int(os.environ["RAY_RAYLET_PID"]), signal.SIGKILL)
    time.sleep(600)
if mode == "slow":
    certificate["measures"]["warm_load_real_s"] += 3
    certificate["windows"]["warm load"]["phases"]["storage"] += 3 * 10**9
json.dump(certificate, sys.stdout)
"""
MODES = ("", "", "", "", "slow", "hung", "dead")
LIMIT_S = 15.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_DISABLE_MEMORY_MONITOR", "1")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for mode in MODES[1:]:
        made.add_node(num_cpus=1, env_vars={"NODE_MODE": mode}, wait=False)
    made.wait_for_nodes(timeout=120)
    yield made
    ray.shutdown()
    made.shutdown()


def test_each_node_has_a_row_whatever_became_of_it(cluster: Any, tmp_path: Path) -> None:
    certificate, program = tmp_path / "certificate.json", tmp_path / "certify.py"
    certificate.write_text(json.dumps(dict(make_certificate(healthy_facts()).data)))
    program.write_text(PROGRAM)

    start = time.monotonic()
    rows = run_fleet(cluster.address, [str(program), str(certificate)], limit_s=LIMIT_S, retries=0)
    took_s = time.monotonic() - start

    fleet = compare_fleet({name: [row.get(name) for row in rows] for name in {key: 0 for row in rows for key in row}})
    assert sorted(row["status"] for row in rows) == ["dead", "hung", *["ok"] * 5]
    assert [(one.metric, one.where) for one in fleet.outliers] == [("warm_load_real_s", "storage")]
    assert took_s < 120  # and not the ten minutes that the hung one sleeps
