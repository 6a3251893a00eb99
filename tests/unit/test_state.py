from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmtrace.probes import memory_state, procfs, state, storage_state
from slmtrace.probes.storage_state import _find_mount, _Mount, read_storage


def test_the_certificate_is_json_with_every_part(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x" * 10_000)

    certificate = json.loads(json.dumps(state.read_state([weights, tmp_path / "gone.safetensors"])))

    assert set(certificate) >= {
        *("page_cache", "storage", "thp", "khugepaged", "hugepages", "compaction", "numa", "cgroup", "pressure_us"),
        *("cpu", "allocator", "compile_caches", "kernel", "gpu", "versions", "memory"),
    }
    files = certificate["page_cache"]["files"]
    assert files[0] == {"name": "model.safetensors", "size_bytes": 10_000, "resident_bytes": 10_000}
    assert files[1] == {"name": "gone.safetensors", "error": "No such file or directory"}
    assert certificate["page_cache"]["resident_fraction"] == 1.0
    assert [entry["n_files"] for entry in certificate["storage"]] == [1]
    assert certificate["cpu"]["n_cpus"] >= 1
    assert certificate["kernel"]["release"]


def test_nothing_private_is_in_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "private-directory" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"x")
    monkeypatch.setenv("MALLOC_CONF", "prof_prefix:/secret-place")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=secret-value:glibc.malloc.tcache_count=0")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/secret-place")
    monkeypatch.setattr(procfs, "read_text", fake_cmdline(procfs.read_text))

    certificate = state.read_state([weights])

    text = json.dumps(certificate)
    for private in ("secret", "private-directory", str(tmp_path)):
        assert private not in text
    assert "MALLOC_CONF" in certificate["allocator"]["settings"]
    assert certificate["allocator"]["glibc_tunables"] == ["glibc.malloc.arena_max", "glibc.malloc.tcache_count"]
    assert certificate["kernel"]["cmdline"] == {"intel_iommu": "on", "iommu": "pt"}


def fake_cmdline(read_text):  # type: ignore[no-untyped-def]
    line = "root=UUID=secret-id intel_iommu=on iommu=pt token=secret init=/x -- mitigations=secret"
    return lambda path: line if path == Path("/proc/cmdline") else read_text(path)


def test_the_share_of_all_weight_files_counts_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    residency = {"a": (100, 100), "b": (0, 300)}
    monkeypatch.setattr(state, "page_cache_residency", lambda path: residency[path.name])

    page_cache = state.read_page_cache([Path("a"), Path("b")])

    assert page_cache["resident_fraction"] == 0.25


def test_without_weight_files_there_is_no_share() -> None:
    assert state.read_page_cache([]) == {"resident_fraction": None, "files": []}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_cpu_limit_is_in_cpus(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")

    assert memory_state._cpu_limit(tmp_path) == cpus


def test_the_least_limit_of_the_cgroup_and_those_above_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("1000\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("700\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "outer" / "cpu.max").write_text("200000 100000\n")
    (inner / "cpu.stat").write_text("usage_usec 5\nnr_throttled 3\nthrottled_usec 17\n")
    monkeypatch.setattr(procfs, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(procfs, "find_cgroup_dirs", lambda _: {"cpu": inner, "memory": inner})

    cgroup = memory_state.read_cgroup(1)

    assert (cgroup["cpu_limit_cpus"], cgroup["memory_max_bytes"], cgroup["memory_current_bytes"]) == (2.0, 1000, 700)
    assert (cgroup["n_throttled"], cgroup["throttled_us"]) == (3, 17)


def test_a_limit_of_version_1_that_means_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")

    assert memory_state._memory_limit(tmp_path) is None


def test_a_path_lies_in_its_longest_mount_and_the_last_of_equal_ones() -> None:
    mounts = [
        _Mount("8:1", Path("/"), "ext4", "/dev/sda1"),
        _Mount("0:40", Path("/models"), "nfs4", "server:/models"),
        _Mount("0:41", Path("/models"), "tmpfs", "tmpfs"),
        _Mount("8:2", Path("/mod"), "xfs", "/dev/sda2"),
    ]

    assert _find_mount(Path("/models/a/model.safetensors"), mounts) == mounts[2]
    assert _find_mount(Path("/modelsX"), mounts) == mounts[0]


def test_a_network_file_system_is_named_without_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [_Mount("0:40", Path("/"), "nfs4", "10.1.2.3:/models")]
    monkeypatch.setattr(storage_state, "_read_mounts", lambda: mounts)

    storage = read_storage([Path("/models/a"), Path("/models/b")], "self")

    assert storage == [
        {"n_files": 2, "filesystem": "nfs4", "is_network": True, "is_memory": False, "device": None},
    ]


def test_compile_caches_say_whether_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton" / "deep").mkdir(parents=True)
    (tmp_path / "triton" / "deep" / "kernel.so").write_bytes(b"x" * 41)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path / "absent"))

    caches = state.read_compile_caches()

    assert caches["triton"] == {"exists": True, "n_files": 1, "size_bytes": 41}
    assert caches["cuda"] == {"exists": False, "n_files": 0, "size_bytes": 0}
