"""``decant doctor`` in the image, with what the strictest platforms leave a container."""

from __future__ import annotations

import json

import pytest

from tests.conftest import DIGITS
from tests.infra.containers import CONFINED, MEMORY, TMPFS, built_image, podman, whats_missing


@pytest.mark.container
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_the_image_a_confined_container_is_well_and_its_limits_are_seen() -> None:
    if missing := whats_missing():
        pytest.skip(missing)
    with built_image() as image:
        model = (f"--volume={DIGITS}:/models/digits:ro", "--env=DECANT_MODEL_PATH=/models/digits")
        run = ("run", "--rm", "--no-healthcheck", "--cpus=0.75", *CONFINED, *model, image)
        done = podman(*run, "doctor", "--json", "--rest_port", "0", "--port", "0", "--grpc_socket_path", "/tmp/s")
    report = json.loads(done.stdout)
    found = {each["id"]: each for each in report["findings"]}
    assert [each for each in report["findings"] if each["level"] == "problem"] == []
    assert report["platform"] == "a container"
    assert f"{MEMORY >> 20} MiB" in found["memory.limit"]["detail"]
    assert "0.75 of" in found["cpu.quota"]["detail"]
    assert f"{TMPFS >> 20} MiB of memory are free" in found["disk.room"]["detail"]
    assert "not installed" in found["telemetry"]["detail"]
    assert found["openvino"]["level"] == found["model.read"]["level"] == found["packages"]["level"] == "ok"
