"""What the kernel gives to this process: descriptors, threads, /proc, /sys and /dev/shm."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.limits import groups

_OWN_FILES = 256
_OWN_THREADS = 64
_FEW = 64


def check_process(site: Site) -> Findings:
    yield _files(site)
    yield from _threads(site)
    yield _mounts(site)
    shm = site.root / "dev" / "shm"
    found = "there" if shm.is_dir() else "not there"
    yield ok("process.shm", "/dev/shm", f"{found}, and not needed")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        detail = f"addresses are limited to {limit >> 20} MiB (ulimit -v), and files of models are mapped beside them"
        advice = "lift it: limit the memory of the container instead"
        yield warning("process.addresses", "address space", detail, advice)


def _files(site: Site) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fronts = sum(map(bool, (site.settings.rest_port, site.settings.port)))
    wanted = fronts * site.settings.max_in_flight + _OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ok("process.files", "open files", f"{soft} are allowed, and {wanted} are enough")
    can = f"up to {hard} without privilege" if hard > soft else "the hard limit has to be raised first"
    advice = f"ulimit -n {wanted} or docker run --ulimit nofile={wanted} ({can}), or lower max_in_flight"
    detail = f"{soft} are allowed (ulimit -n); want {wanted} for max_in_flight {site.settings.max_in_flight}"
    make = problem if soft < _FEW else warning
    return make("process.files", "open files", detail, advice)


def _threads(site: Site) -> Findings:
    wanted = 2 * site.settings.max_in_flight + _OWN_THREADS
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limits = [] if soft == resource.RLIM_INFINITY else [(soft, "ulimit -u, of the user as a whole")]
    for _, group in groups(site.root, "pids"):
        most, used = (_number(group / name) for name in ("pids.max", "pids.current"))
        if most is not None:
            limits.append((max(0, most - (used or 0)), f"{most} in the control group less those there are"))
    if not limits:
        yield ok("process.threads", "threads", "no limit is found")
        return
    left, what = min(limits)
    if left >= wanted:
        yield ok("process.threads", "threads", f"{left} are left, and {wanted} are enough")
        return
    detail = f"{left} are left ({what}); want {wanted} for max_in_flight {site.settings.max_in_flight}"
    make = problem if left < _FEW else warning
    advice = "raise pids-limit (docker run --pids-limit, podPidsLimit), or lower max_in_flight"
    yield make("process.threads", "threads", detail, advice)


def _mounts(site: Site) -> Finding:
    missing = [name for name in ("proc", "sys") if not _is_mounted(site.root / name)]
    if not missing:
        return ok("process.mounts", "/proc and /sys", "both are mounted")
    if len(missing) == 2:
        detail = "neither is mounted, without which OpenVINO looks for processors for ever; want one of them"
        return problem("process.mounts", "/proc and /sys", detail, "mount /proc, as every container engine does")
    detail = f"/{missing[0]} is not mounted; want both, as limits of memory and CPUs are read from them"
    advice = "mount it, or set memory_budget and plugin_config INFERENCE_NUM_THREADS"
    return warning("process.mounts", "/proc and /sys", detail, advice)


def _is_mounted(directory: Path) -> bool:
    try:
        return next(directory.iterdir(), None) is not None
    except OSError:
        return False


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def check_instructions(site: Site) -> Findings:
    """What the processor can do of that which OpenVINO's kernels are written for."""
    machine = platform.machine()
    flags = _flags(site.root / "proc" / "cpuinfo")
    if not flags:
        yield ok("cpu.instructions", "instructions", f"{machine}; /proc/cpuinfo does not say more")
        return
    if machine != "x86_64":
        arm = ("asimd", "asimddp", "i8mm", "bf16", "sve")
        yield ok("cpu.instructions", "instructions", f"{machine}: {', '.join(flags.intersection(arm))}")
        return
    wide = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    found = [name for name in wide if name in flags]
    if "avx2" not in flags:
        detail = f"{machine} without AVX2; want it, as OpenVINO is several times slower without"
        advice = "run on newer machines, or let the virtual machine see its host's processor"
        yield warning("cpu.instructions", "instructions", detail, advice)
        return
    half = {"avx512_bf16", "amx_bf16"} & flags
    precision = "; models are computed in bfloat16 unless INFERENCE_PRECISION_HINT is f32" if half else ""
    yield ok("cpu.instructions", "instructions", f"{machine}: {', '.join(found)}{precision}")


def _flags(path: Path) -> set[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return set(found.partition(":")[2].split())
