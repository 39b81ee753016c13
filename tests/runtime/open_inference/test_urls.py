"""The Open Inference Protocol's URLs."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidRequest, MethodNotAllowed, NoSuchPath
from runtime.open_inference.urls import Target, parse

INT64_MAX = (1 << 63) - 1


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "/v2", Target("server")),
        ("HEAD", "/v2", Target("server")),
        ("GET", "/v2/", Target("server")),
        ("GET", "/v2/models/a", Target("metadata", "a")),
        ("GET", "/v2/models/a/", Target("metadata", "a")),
        ("GET", "/v2/models/a/versions/7", Target("metadata", "a", 7)),
        ("HEAD", "/v2/models/a/ready", Target("ready", "a")),
        ("GET", "/v2/models/a/versions/007/ready", Target("ready", "a", 7)),
        ("GET", f"/v2/models/a/versions/{INT64_MAX}/stats", Target("stats", "a", INT64_MAX)),
        ("GET", "/v2/models/a/stats/", Target("stats", "a")),
        ("GET", "/v2/models/stats", Target("stats")),
        ("GET", "/v2/models/a/config", Target("config", "a")),
        ("GET", "/v2/models/a/versions/2/config/", Target("config", "a", 2)),
        ("POST", "/v2/models/a/infer", Target("infer", "a")),
        ("POST", "/v2/models/a/versions/0/infer/", Target("infer", "a", 0)),
        ("POST", "/v2/repository/index", Target("index")),
        ("POST", "/v2/repository/models/a/load", Target("load", "a")),
        ("POST", "/v2/repository/models/a/unload", Target("unload", "a")),
        # What looks like a part of the path is a name where a name has to be.
        ("GET", "/v2/models/ready", Target("metadata", "ready")),
        ("GET", "/v2/models/versions", Target("metadata", "versions")),
        ("GET", "/v2/models/stats/versions/1", Target("metadata", "stats", 1)),
        ("GET", "/v2/models/stats/stats", Target("stats", "stats")),
        ("POST", "/v2/models/infer/infer", Target("infer", "infer")),
        ("POST", "/v2/repository/models/load/load", Target("load", "load")),
        # Decoded once, after the match.
        ("POST", "/v2/models/a%2Fb/infer", Target("infer", "a/b")),
        ("GET", "/v2/models/a%252Fb", Target("metadata", "a%2Fb")),
        ("GET", "/v2/models/%73tats", Target("metadata", "stats")),
        ("GET", "/v2/models/a:b@c", Target("metadata", "a:b@c")),
        ("GET", "/v2/models/%FF", Target("metadata", "\ufffd")),
        ("POST", "/v2/repository/models/a%2Fb/load", Target("load", "a/b")),
    ],
)
def test_what_is_asked_for(method: str, path: str, target: Target) -> None:
    assert parse(method, path.encode()) == target


@pytest.mark.parametrize(
    "path",
    [
        "/v2//",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/a//",
        "/v2/models/a/b",
        "/v2/models/a/infer/x",
        "/v2/models/a/Infer",
        "/v2/Models/a",
        "/V2",
        "/v2/models/a/versions",
        "/v2/models/a/versions/",
        "/v2/models/a/versions/x/infer",
        "/v2/models/a/versions/-1",
        "/v2/models/a/versions/\u0661",
        "/v2/models/a/labels/stable/infer",
        "/v2/models/a:predict/x",
        "/v2/models/a/configs",
        "/v2/models/a/generate",
        "/v2/models/a/infer%20",
        "/v2/models/a\n/infer/..",
        "/v2/repository",
        "/v2/repository/models/a",
        "/v2/repository/models/a/b/load",
        "/v2/systemsharedmemory/status",
        "/v2/logging",
    ],
)
def test_there_is_nothing_elsewhere(path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        with pytest.raises(NoSuchPath, match="Not Found"):
            parse(method, path.encode())


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("POST", "/v2/models/a", "GET, HEAD"),
        ("DELETE", "/v2/models/a/ready", "GET, HEAD"),
        ("POST", "/v2/models/stats", "GET, HEAD"),
        ("GET", "/v2/models/a/infer", "POST"),
        ("HEAD", "/v2/models/a/versions/1/infer", "POST"),
        ("get", "/v2", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
        ("PUT", "/v2/repository/models/a/load", "POST"),
        ("GET", "/v2/repository/models/a/unload", "POST"),
    ],
)
def test_another_method_is_told_which_there_are(method: str, path: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed, match="Method Not Allowed") as caught:
        parse(method, path.encode())
    assert caught.value.allow == allow


@pytest.mark.parametrize("digits", [str(INT64_MAX + 1), "9" * 5000])
def test_a_version_is_no_larger_than_there_are(digits: str) -> None:
    with pytest.raises(InvalidRequest, match="Failed to convert version") as caught:
        parse("GET", f"/v2/models/a/versions/{digits}".encode())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["/v2/" + "a" * 60_000, "/v2/models/" + "a/" * 30_000])
def test_a_message_quotes_no_more_than_a_piece(path: str) -> None:
    with pytest.raises(NoSuchPath) as caught:
        parse("GET", path.encode())
    assert len(str(caught.value)) < 400
