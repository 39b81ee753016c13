"""Who may read what: policies admit the models of a manifest and nothing beside them."""

from __future__ import annotations

import pytest

from handlers.deploy.access import Place, aws_statements, gcs_condition, places
from handlers.deploy.manifest import Manifest
from tests.handlers.deploy.manifests import manifest
from tests.handlers.deploy.policies import admits, cel_admits


def of(*paths: str) -> Manifest:
    models = [{"name": f"m{number}", "base_path": path} for number, path in enumerate(paths)]
    return manifest(*models, azure_account="mystorage")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("s3://my-models/vision/digits", Place("s3", "my-models", "vision/digits")),
        ("gs://my-models", Place("gs", "my-models", "")),
        ("azure://models/a/b", Place("az", "models", "a/b")),
        ("/models/digits", Place("", "", "/models/digits")),
        ("file:///models/digits", Place("", "", "/models/digits")),
    ],
)
def test_a_model_has_a_place(path: str, place: Place) -> None:
    assert places(of(path)) == [place]


def test_places_are_listed_once_and_not_within_each_other() -> None:
    given = of("s3://b-1/a/b", "s3://b-1/a", "gs://b-1/a/b", "s3://b-1/ab", "s3://b-1/a", "s3://b-2/a/b", "/a/b", "/a")
    assert places(given) == [
        Place("s3", "b-1", "a"),
        Place("gs", "b-1", "a/b"),
        Place("s3", "b-1", "ab"),
        Place("s3", "b-2", "a/b"),
        Place("", "", "/a"),
    ]


@pytest.mark.parametrize(
    ("action", "resource", "prefix", "allowed"),
    [
        ("s3:ListBucket", "my-models", "vision/digits/", True),
        ("s3:ListBucket", "my-models", "vision/digits/3/", True),
        ("s3:ListBucket", "my-models", "text/", True),
        ("s3:ListBucket", "my-models", "vision/", False),
        ("s3:ListBucket", "my-models", "", False),
        ("s3:ListBucket", "my-models", "vision/digits-of-others/", False),
        ("s3:ListBucket", "my-models-2", "vision/digits/", False),
        ("s3:ListBucket", "others", "vision/digits/", False),
        ("s3:ListBucket", "others", "a/b/", True),
        ("s3:GetObject", "my-models/vision/digits/1/model.bin", "", True),
        ("s3:GetObject", "my-models/text/1/model.bin", "", True),
        ("s3:GetObject", "others/a/b/1/model.bin", "", True),
        ("s3:GetObject", "others/vision/digits/1/model.bin", "", False),
        ("s3:GetObject", "my-models/vision/digits-of-others/1/model.bin", "", False),
        ("s3:GetObject", "my-models/secret", "", False),
        ("s3:GetObject", "whole/anything", "", True),
        ("s3:ListBucket", "whole", "", True),
        ("s3:ListBucket", "whole", None, True),
        ("s3:ListBucket", "my-models", None, False),
        ("s3:ListBucket", "whole", "anything/", True),
        ("s3:PutObject", "my-models/vision/digits/1/model.bin", "", False),
        ("s3:DeleteObject", "whole/anything", "", False),
        ("s3:GetObject", "google/a/1/model.bin", "", False),
    ],
)
def test_a_role_reads_the_models_on_s3_and_nothing_else(
    action: str, resource: str, prefix: str | None, allowed: bool
) -> None:
    given = of(
        "s3://my-models/vision/digits", "s3://my-models/text", "s3://others/a/b", "s3://whole", "gs://google/a", "/m"
    )
    statements = aws_statements(given, partition="aws-cn")
    assert admits(statements, action, f"arn:aws-cn:s3:::{resource}", prefix) is allowed


def test_there_are_two_statements_for_each_bucket() -> None:
    statements = aws_statements(of("s3://b-1/a", "s3://b-1/b", "s3://b-2/c"))
    assert [statement["Action"] for statement in statements] == [["s3:GetObject"], ["s3:ListBucket"]] * 2
    assert aws_statements(of("gs://b-1/a", "/m")) == []


@pytest.mark.parametrize(
    ("resource", "allowed"),
    [
        ("objects/vision/digits/1/model.bin", True),
        ("objects/vision/digits-of-others/1/model.bin", False),
        ("objects/vision/digits", False),
        ("objects/secret", False),
    ],
)
def test_a_condition_on_google_leaves_the_prefix(resource: str, allowed: bool) -> None:
    condition = gcs_condition(Place("gs", "my-models", "vision/digits"))
    assert cel_admits(condition, f"projects/_/buckets/my-models/{resource}") is allowed


def test_a_condition_on_google_lets_the_bucket_be_listed_and_no_other() -> None:
    condition = gcs_condition(Place("gs", "my-models", "vision/digits"))
    assert cel_admits(condition, "projects/_/buckets/my-models")
    assert not cel_admits(condition, "projects/_/buckets/my-models-2")
    assert not cel_admits(condition, "projects/_/buckets/my-models-2/objects/vision/digits/1/model.bin")


def test_a_whole_bucket_needs_no_condition() -> None:
    assert gcs_condition(Place("gs", "my-models", "")) == ""
