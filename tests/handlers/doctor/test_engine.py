"""OpenVINO, asked in a process of its own, which may crash or never end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handlers.doctor.engine import FRONT_ENDS, Engine, EngineFailed, describe, failed, probe
from handlers.doctor.finding import Level
from handlers.doctor.packages import check_packages, clients
from tests.handlers.doctor.sites import levels, make_root, one, site_of
from tests.servers.processes import clean_environment


def test_openvino_tells_what_it_is_and_does_not_call_home() -> None:
    found = probe()
    assert "CPU" in found.devices
    assert set(FRONT_ENDS.values()) <= set(found.frontends)
    assert found.requirements.startswith("meta=")
    assert found.precision in ("f32", "bf16", "f16")
    assert not found.calls_home
    assert set(levels(describe(site_of(), found)).values()) == {Level.OK}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import time; time.sleep(60)", "it has not started after 0 s"),
        ("import os; os.kill(os.getpid(), 4)", "signal 4, an instruction that this processor has not"),
        ("raise ModuleNotFoundError('No module named openvino')", "No module named openvino"),
        ("print('{}')", "it does not start"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_an_openvino_that_does_not_start_is_told_in_time(code: str, says: str) -> None:
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=says):
        probe(0.4 if "sleep" in code else 20.0, ("-c", code))
    assert time.monotonic() - began < 10


def test_without_proc_and_sys_the_advice_is_to_mount_them(tmp_path: Path) -> None:
    bare = failed(site_of({}, tmp_path), "it has not started after 25 s")
    assert (bare.level, "mount /proc" in bare.advice) == (Level.PROBLEM, True)
    mounted = failed(site_of({}, make_root(tmp_path, {"proc/self/stat": ""})), "it has not started after 25 s")
    assert "pip install openvino" in mounted.advice


def test_what_openvino_lacks_is_told(tmp_path: Path) -> None:
    engine = Engine("2026.4.1", ["GPU"], "some", "f16", "", ["ir"], calls_home=True)
    found = levels(describe(site_of({"HOME": str(tmp_path)}, target_device="NPU"), engine))
    assert found == {
        "openvino": Level.PROBLEM,
        "openvino.device": Level.PROBLEM,
        "openvino.formats": Level.OK,
        "telemetry": Level.WARNING,
    }
    auto = describe(site_of(target_device="AUTO:GPU,CPU"), engine._replace(calls_home=False))
    assert levels(auto)["openvino.device"] is Level.OK


def test_who_has_opted_out_of_telemetry_is_told_so(tmp_path: Path) -> None:
    make_root(tmp_path, {"intel/openvino_telemetry": "0"})
    engine = Engine("2026.4.1", ["CPU"], "some", "f32", "", ["ir"], calls_home=False)
    with_choice = one(describe(site_of({"HOME": str(tmp_path)}), engine), "telemetry").detail
    without = one(describe(site_of({"HOME": "/nowhere"}), engine), "telemetry").detail
    # The package may not be there at all, as in the image.
    assert "opted out" in with_choice or with_choice == without == "openvino-telemetry is not installed"
    assert "opted out" not in without


def test_what_is_installed_is_told_and_is_enough() -> None:
    found = list(check_packages(site_of()))
    assert levels(found) == {"packages": Level.OK}
    assert "openvino 20" in found[0].detail
    assert levels(check_packages(site_of({"AWS_LAMBDA_FUNCTION_NAME": "f"}))) == {"packages": Level.OK}


def test_clients_of_all_stores_are_there() -> None:
    assert all(clients(site_of(), scheme) is None for scheme in ("s3", "gs", "az", "azure", "", "file"))


_LACKING = """
import json, sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
from handlers.doctor.packages import check_packages, clients
from tests.handlers.doctor.sites import site_of
function = site_of({"AWS_LAMBDA_FUNCTION_NAME": "f"})
found = [*check_packages(site_of()), *check_packages(function), clients(site_of(), "s3"), clients(site_of(), "gs")]
print(json.dumps([finding and finding.id for finding in found]))
"""


def test_extras_that_are_wanted_and_not_installed_are_told() -> None:
    argv = [sys.executable, "-c", _LACKING, "grpc,awslambdaric,obstore,boto3"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=30, env=clean_environment(), text=True)
    found = json.loads(done.stdout)
    assert found == ["packages", "packages.grpc", "packages", "packages.lambda", "packages.storage", None]


def test_a_package_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, version, wants in (("decant", "9", "Requires-Dist: numpy>=2\nRequires-Dist: orjson>=3.11"),):
        make_root(tmp_path, {f"{name}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n{wants}\n"})
    make_root(tmp_path, {"numpy-1.26.4.dist-info/METADATA": "Name: numpy\nVersion: 1.26.4\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [finding for finding in check_packages(site_of()) if finding.level is Level.WARNING]
    assert [finding.detail for finding in found] == ["numpy 1.26.4 is installed; want 2 or later"]
