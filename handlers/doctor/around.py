"""The platform: whether it is known, and whether the settings are for it."""

from __future__ import annotations

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.doctor.platforms import LAMBDA
from handlers.limits import CPU_OF_LAMBDA

_SNAP_START_TMP = 512 << 20
_SNAP_START = "snap-start"
_LEAST = 1.0
"""Seconds without which no request would have time to be answered."""


def check_platform(site: Site) -> Findings:
    yield ok("platform", "platform", f"{site.platform.name}: {site.platform.limits}")
    if site.platform is LAMBDA:
        yield from _lambda(site)
    if site.platform.drain is not None:
        yield _drain(site, site.platform.drain)
    if site.platform.is_port_given and "PORT" in site.environ:
        yield _port(site)


def _lambda(site: Site) -> Findings:
    memory = site.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    if memory.isdecimal():
        detail = f"{memory} MB, which buy {int(memory) / CPU_OF_LAMBDA:.2f} CPUs"
        if int(memory) < CPU_OF_LAMBDA:
            advice = f"give it {CPU_OF_LAMBDA} MB if models are slow: a function is billed by memory times time"
            yield warning("lambda.memory", "memory of the function", f"{detail}; want one CPU for a model", advice)
        else:
            yield ok("lambda.memory", "memory of the function", detail)
    kind = site.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    yield ok("lambda.start", "how environments start", kind)
    if kind == _SNAP_START:
        yield from _snap_start(site)
    if site.remaining is not None:
        yield _timeout(site, site.remaining)


def _snap_start(site: Site) -> Findings:
    if site.environ.get("AWS_LAMBDA_FUNCTION_VERSION") == "$LATEST":
        detail = "$LATEST is called, of which there is no snapshot"
        yield warning("lambda.snapshot", "SnapStart", detail, "publish a version and call its alias")
    if site.settings.disk_budget > _SNAP_START_TMP:
        detail = "disk_budget is above 512 MB, which is all that /tmp has with SnapStart"
        yield problem("lambda.snapshot_disk", "SnapStart", detail, "lower disk_budget, or leave SnapStart")


def _timeout(site: Site, remaining: float) -> Finding:
    margin = site.settings.lambda_deadline_margin
    detail = f"this call had {remaining:.0f} s left, and who waits for a load is answered {margin:g} s before the end"
    if remaining < margin + _LEAST:
        advice = "raise the function's timeout, or lower lambda_deadline_margin"
        return warning("lambda.timeout", "timeout of the function", f"{detail}; want {_LEAST:g} s beside that", advice)
    return ok("lambda.timeout", "timeout of the function", detail)


def _drain(site: Site, drain: float) -> Finding:
    given = site.settings.shutdown_timeout
    detail = f"shutdown_timeout is {given:g} s, and the platform ends the process {drain:g} s after SIGTERM"
    if given >= drain:
        advice = f"set DECANT_SHUTDOWN_TIMEOUT={drain - 2:g}, or requests in flight are cut off"
        return warning("platform.drain", "end of the process", detail, advice)
    return ok("platform.drain", "end of the process", detail)


def _port(site: Site) -> Finding:
    given, ports = site.environ["PORT"], [site.settings.rest_port, site.settings.port]
    detail = f"the platform sends requests to port {given}; REST is on {ports[0]} and gRPC on {ports[1]}"
    if given in map(str, ports):
        return ok("platform.port", "port of the platform", detail)
    advice = "leave out DECANT_REST_PORT and --rest_port, so that $PORT counts, or set DECANT_PORT to it for gRPC"
    return problem("platform.port", "port of the platform", f"{detail}; want one of them there", advice)
