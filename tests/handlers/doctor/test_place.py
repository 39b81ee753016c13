"""The platform, its variables and what the kernel grants, as recorded variables and trees of files tell it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.doctor.around import check_platform
from handlers.doctor.finding import Finding, Level, ok, redaction
from handlers.doctor.platforms import platform_of
from handlers.doctor.process import check_instructions, check_process
from handlers.doctor.processors import check_cpu
from handlers.doctor.room import check_memory
from handlers.doctor.variables import check_variables
from tests.handlers.doctor.sites import levels, make_root, one, site_of
from tests.servers.processes import clean_environment

LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024"}
CLOUD_RUN = {"K_SERVICE": "s", "K_REVISION": "s-1", "K_CONFIGURATION": "s", "PORT": "8080"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (LAMBDA, "AWS Lambda"),
        (CLOUD_RUN, "Google Cloud Run"),
        ({"CLOUD_RUN_JOB": "j"}, "Google Cloud Run (job)"),
        (CLOUD_RUN | KUBERNETES, "Knative"),
        ({"CONTAINER_APP_NAME": "a"} | KUBERNETES, "Azure Container Apps"),
        (KUBERNETES, "Kubernetes"),
        ({}, "a machine"),
    ],
)
def test_platforms_are_known_by_their_variables(environ: dict[str, str], name: str, tmp_path: Path) -> None:
    assert platform_of(environ, tmp_path).name == name


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_what_its_engine_leaves(mark: str, tmp_path: Path) -> None:
    assert platform_of({}, make_root(tmp_path, {mark: ""})).name == "a container"


def test_a_container_is_known_by_its_layers_or_its_variable(tmp_path: Path) -> None:
    assert platform_of({"container": "podman"}, tmp_path).name == "a container"
    mounts = "8 1 0:3 / /data rw - overlay overlay rw\n9 1 0:4 / / ro,relatime - {} overlay rw\n"
    layered = make_root(tmp_path / "a", {"proc/self/mountinfo": mounts.format("overlay")})
    plain = make_root(tmp_path / "b", {"proc/self/mountinfo": mounts.format("ext4")})
    assert (platform_of({}, layered).name, platform_of({}, plain).name) == ("a container", "a machine")


def test_a_function_is_told_what_its_memory_buys_and_whether_its_timeout_is_short() -> None:
    found = list(check_platform(site_of(LAMBDA, remaining=1.5)))
    assert "0.58 CPUs" in one(found, "lambda.memory").detail
    assert levels(found) == {
        "platform": Level.OK,
        "lambda.memory": Level.WARNING,
        "lambda.start": Level.OK,
        "lambda.timeout": Level.WARNING,
    }
    good = levels(check_platform(site_of({**LAMBDA, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769"}, remaining=60.0)))
    assert set(good.values()) == {Level.OK}


def test_a_snapshot_wants_a_version_and_a_small_disk() -> None:
    environ = {
        **LAMBDA,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    }
    found = levels(check_platform(site_of(environ, disk_budget=1 << 30)))
    assert found["lambda.snapshot"] is Level.WARNING
    assert found["lambda.snapshot_disk"] is Level.PROBLEM
    good = levels(check_platform(site_of({**environ, "AWS_LAMBDA_FUNCTION_VERSION": "3"})))
    assert not {"lambda.snapshot", "lambda.snapshot_disk"} & good.keys()


def test_on_cloud_run_one_port_is_the_platforms_and_the_drain_is_shorter_than_its_grace() -> None:
    good = levels(check_platform(site_of(CLOUD_RUN, rest_port=8080)))
    assert (good["platform.port"], good["platform.drain"]) == (Level.OK, Level.OK)
    assert levels(check_platform(site_of(CLOUD_RUN, rest_port=0, port=8080)))["platform.port"] is Level.OK
    bad = levels(check_platform(site_of(CLOUD_RUN, rest_port=8501, shutdown_timeout=10.0)))
    assert (bad["platform.port"], bad["platform.drain"]) == (Level.PROBLEM, Level.WARNING)


def test_a_misspelt_variable_is_told_with_what_was_meant() -> None:
    environ = {"DECANT_REST_PROT": "1", "DECANT_COLOUR_OF_DOORS": "red", "DECANT_REST_PORT": "8501"}
    found = [finding for finding in check_variables(site_of(environ)) if finding.level is Level.WARNING]
    advice = {finding.title: finding.advice for finding in found}
    assert advice == {
        "variable DECANT_REST_PROT": "did you mean DECANT_REST_PORT?",
        "variable DECANT_COLOUR_OF_DOORS": "leave it out; decant serve --help names all of them",
    }


def test_variables_of_a_kubernetes_service_are_no_mistakes() -> None:
    environ = {
        "DECANT_PORT": "tcp://10.0.0.7:8500",
        "DECANT_PORT_8500_TCP": "tcp://10.0.0.7:8500",
        "DECANT_PORT_8500_TCP_ADDR": "10.0.0.7",
        "DECANT_SERVICE_HOST": "10.0.0.7",
        "DECANT_SERVICE_PORT_GRPC": "8500",
    }
    found = list(check_variables(site_of(environ)))
    assert levels(found) == {"variables.links": Level.OK, "variables": Level.OK}
    assert one(found, "variables.links").detail.startswith("5 are")


CGROUP_2 = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": "134217728\n",
    "sys/fs/cgroup/cpu.max": "25000 100000\n",
    "sys/fs/cgroup/pids.max": "100\n",
    "sys/fs/cgroup/pids.current": "60\n",
}
CGROUP_1 = {
    "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/\n2:pids:/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "25000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/pids/pids.max": "100\n",
    "sys/fs/cgroup/pids/pids.current": "60\n",
}


@pytest.mark.parametrize("files", [CGROUP_1, CGROUP_2], ids=["v1", "v2"])
def test_little_memory_cpu_and_few_threads_are_seen_in_both_versions_of_cgroups(
    files: dict[str, str], tmp_path: Path
) -> None:
    site = site_of({}, make_root(tmp_path, files))
    assert "128 MiB" in one(check_memory(site), "memory.limit").detail
    assert levels(check_memory(site))["memory.limit"] is Level.PROBLEM
    assert one(check_cpu(site), "cpu.quota").level is Level.WARNING
    assert "0.25 of" in one(check_cpu(site), "cpu.quota").detail
    threads = one(check_process(site), "process.threads")
    assert (threads.level, threads.detail[:11]) == (Level.PROBLEM, "40 are left")


def test_without_limits_all_is_well(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000"}
    site = site_of({}, make_root(tmp_path, files))
    assert levels(check_memory(site)) == {"memory.limit": Level.OK}
    assert levels(check_cpu(site)) == {"cpu.quota": Level.OK}


def test_more_threads_and_workers_than_the_quota_are_told(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "90000 100000\n"}
    site = site_of(
        {},
        make_root(tmp_path, files),
        workers=3,
        plugin_config={"INFERENCE_NUM_THREADS": "8", "PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": "YES"},
    )
    found = levels(check_cpu(site))
    assert found == {
        "cpu.quota": Level.OK,
        "cpu.workers": Level.WARNING,
        "cpu.threads": Level.WARNING,
        "cpu.hint": Level.WARNING,
        "cpu.pinning": Level.WARNING,
    }
    fitting = site._replace(settings=site_of(plugin_config={"INFERENCE_NUM_THREADS": "1"}).settings)
    assert levels(check_cpu(fitting)) == {"cpu.quota": Level.OK}


def test_a_memory_budget_above_the_limit_is_a_problem(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(1 << 30)}
    root = make_root(tmp_path, files)
    assert levels(check_memory(site_of({}, root, memory_budget=1 << 30)))["memory.budget"] is Level.PROBLEM
    assert "memory.budget" not in levels(check_memory(site_of({}, root, memory_budget=1 << 29)))


@pytest.mark.parametrize(
    ("there", "level"), [([], Level.PROBLEM), (["proc"], Level.WARNING), (["proc", "sys"], Level.OK)]
)
def test_proc_and_sys_are_looked_for(there: list[str], level: Level, tmp_path: Path) -> None:
    root = make_root(tmp_path, {f"{name}/something": "" for name in there})
    assert one(check_process(site_of({}, root)), "process.mounts").level is level


def test_a_processor_without_avx2_is_told(tmp_path: Path) -> None:
    root = make_root(tmp_path, {"proc/cpuinfo": "processor : 0\nflags\t\t: fpu sse2 avx\n"})
    assert one(check_instructions(site_of({}, root)), "cpu.instructions").level is Level.WARNING
    make_root(tmp_path, {"proc/cpuinfo": "flags\t\t: fpu avx2 amx_bf16 avx512f\n"})
    found = one(check_instructions(site_of({}, root)), "cpu.instructions")
    assert found.level is Level.OK
    assert "avx2, avx512f, amx_bf16; models are computed in bfloat16" in found.detail


_LIMITED = """
import json, resource, sys
from handlers.doctor.process import check_process
from tests.handlers.doctor.sites import site_of
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_AS, (8 << 30,) * 2)
print(json.dumps(list(check_process(site_of()))))
"""


@pytest.mark.parametrize(("files", "level"), [(50, Level.PROBLEM), (500, Level.WARNING), (1024, Level.OK)])
def test_limits_of_the_process_are_told(files: int, level: Level) -> None:
    argv = [sys.executable, "-c", _LIMITED, str(files)]
    done = subprocess.run(argv, capture_output=True, check=True, env=clean_environment(), timeout=30)
    found = [Finding(*each) for each in json.loads(done.stdout)]
    assert one(found, "process.files").level == level
    assert one(found, "process.addresses").level == Level.WARNING


def test_secrets_that_others_quote_are_taken_out() -> None:
    environ = {
        "AWS_SECRET_ACCESS_KEY": "hushhushhush",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=c2VjcmV0a2V5;EndpointSuffix=x.example",
        "AWS_WEB_IDENTITY_TOKEN_FILE": os.devnull,
    }
    redact = redaction(environ)
    text = redact(
        f"hushhushhush said c2VjcmV0a2V5 of {os.devnull}\nhttps://a.example/b?sig=abc http://me:pass@proxy.example:3128"
    )
    assert text == f"*** said *** of {os.devnull} https://a.example/b http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environ", "text", "said"),
    [
        ({}, "no 's3://b/x?X-Amz-Signature=abc'; want", "no 's3://b/x'; want"),
        ({}, "at s3://me:secret1@minio:9000/b.", "at s3://minio:9000/b."),
        ({"HTTP_PROXY": "http://me:p@sshunter2@proxy:1"}, "http://me:p@sshunter2@proxy:1", "http://proxy:1"),
        ({"HTTP_PROXY": "http://me:p@ss/hunter2@proxy:1"}, "bad name 'p@ss/hunter2'", "bad name '***'"),
        ({"S3": "s3://me:secret12@m:9/b"}, 'Invalid bucket name "me:secret12@m:9"', 'Invalid bucket name "***@m:9"'),
        ({}, 'File {"a": "-----BEGIN PRIVATE KEY-----\nMII"} was', 'File {"a": "***'),
        ({"KEYCLOAK_REALM": "models", "MONKEY_MODE": "digits"}, "/models/digits", "/models/digits"),
        (
            {"X_TOKEN": "memory12", "APIKEY": "digits12", "PGPASSWORD": "pg-pass"},
            "memory12 digits12 pg-pass",
            "*** *** ***",
        ),
    ],
)
def test_whatever_looks_like_a_secret_is_taken_out_and_no_more(environ: dict[str, str], text: str, said: str) -> None:
    assert redaction(environ)(text) == said


def test_titles_and_advice_are_our_own_words() -> None:
    found = ok("memory", "memory", "memory12 is memory12", "more\nmemory12").redacted(redaction({"TOKEN": "memory12"}))
    assert (found.title, found.detail, found.advice) == ("memory", "*** is ***", "more memory12")
