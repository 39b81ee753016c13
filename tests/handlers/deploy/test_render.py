"""``decant deploy``: what it writes where, what it leaves alone, and what it says."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from handlers.deploy.parse import ManifestError
from handlers.deploy.render import RECORD, OutputError, Rendered, check_name, render, to_stdout, write
from handlers.deploy.targets import TARGETS
from tests.handlers.deploy.manifests import fields, manifest, text
from tests.handlers.test_cli import decant
from tests.servers import ROOT
from tests.servers.processes import clean_environment

# Compose takes models from everywhere.
TARGET = "compose"
PLAIN = Rendered(TARGET, {"a.yaml": "a: 1\n", "more/b.sh": "#!/bin/sh\nexit\n"}, "digits")


def changed(**files: str) -> Rendered:
    return PLAIN._replace(files={name.replace("_", "."): content for name, content in files.items()})


def lines(output: Path, *rendered: Rendered, is_forced: bool = False, is_dry: bool = False) -> list[str]:
    said = write(rendered or [PLAIN], output, is_forced=is_forced, is_dry=is_dry)
    return [line.replace(f"{output}/{TARGET}/", "") for line in said if not line.startswith("next: ")]


def test_files_are_written_as_they_are_and_each_is_named(tmp_path: Path) -> None:
    output = tmp_path / "new" / "deploy"
    assert lines(output) == ["wrote a.yaml", "wrote more/b.sh"]
    assert (output / TARGET / "a.yaml").read_bytes() == b"a: 1\n"
    script = output / TARGET / "more" / "b.sh"
    assert script.read_text() == PLAIN.files["more/b.sh"]
    assert os.access(script, os.X_OK)
    assert not os.access(output / TARGET / "a.yaml", os.X_OK)
    # Nothing half-written is left.
    assert sorted(path.name for path in output.rglob("*") if path.is_file()) == [RECORD, "a.yaml", "b.sh"]


def test_files_have_the_rights_that_new_files_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        lines(tmp_path)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / TARGET / name).stat().st_mode) for name in PLAIN.files]
    assert modes == [0o640, 0o750]


def test_what_was_written_before_is_replaced_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    lines(tmp_path)
    assert lines(tmp_path) == ["unchanged a.yaml", "unchanged more/b.sh"]
    assert lines(tmp_path, changed(a_yaml="a: 2\n")) == ["wrote a.yaml", "removed more/b.sh"]
    assert (tmp_path / TARGET / "a.yaml").read_text() == "a: 2\n"
    assert lines(tmp_path, changed(a_yaml="a: 2\n")) == ["unchanged a.yaml"]


def test_a_file_that_was_edited_is_left_alone_and_nothing_else_is_written(tmp_path: Path) -> None:
    lines(tmp_path)
    edited = tmp_path / TARGET / "a.yaml"
    edited.write_text("mine")
    new = changed(a_yaml="a: 2\n", c_yaml="c: 1\n")
    with pytest.raises(OutputError) as caught:
        lines(tmp_path, new)
    assert str(caught.value).startswith(f"not written by this command, or edited since: {edited}; nothing is written")
    assert edited.read_text() == "mine"
    assert not (tmp_path / TARGET / "c.yaml").exists()
    assert lines(tmp_path, new, is_forced=True) == ["wrote a.yaml", "wrote c.yaml", "removed more/b.sh"]
    assert edited.read_text() == "a: 2\n"


def test_a_file_of_somebody_else_is_left_alone_in_any_target(tmp_path: Path) -> None:
    theirs = tmp_path / "helm" / "values.yaml"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    with pytest.raises(OutputError, match=str(theirs)):
        lines(tmp_path, PLAIN, Rendered("helm", {"values.yaml": "ours"}, "digits"))
    assert not (tmp_path / TARGET).exists()
    # It may be what would have been written.
    assert lines(tmp_path, Rendered("helm", {"values.yaml": "theirs"}, "digits"))[0].startswith("unchanged ")


def test_a_file_that_is_no_longer_rendered_and_was_edited_stays(tmp_path: Path) -> None:
    lines(tmp_path)
    (tmp_path / TARGET / "more" / "b.sh").write_text("mine")
    assert lines(tmp_path, changed(a_yaml="a: 1\n")) == ["unchanged a.yaml", "left, as it was edited: more/b.sh"]
    assert (tmp_path / TARGET / "more" / "b.sh").read_text() == "mine"


@pytest.mark.parametrize("record", [b"", b"[]", b"[" * 100_000, b'{"a.yaml": 1}', b"\xff", b'{"../../victim": "x"}'])
def test_a_record_that_makes_no_sense_is_none(record: bytes, tmp_path: Path) -> None:
    lines(tmp_path)
    (tmp_path / "victim").write_text("x")
    (tmp_path / TARGET / RECORD).write_bytes(record)
    with pytest.raises(OutputError, match=r"a\.yaml"):
        lines(tmp_path, changed(a_yaml="a: 2\n"))
    assert lines(tmp_path, changed(a_yaml="a: 2\n"), is_forced=True) == ["wrote a.yaml"]
    assert (tmp_path / "victim").exists()


def test_a_record_removes_nothing_outside_of_its_directory(tmp_path: Path) -> None:
    lines(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("a: 1\n")
    record = tmp_path / TARGET / RECORD
    digest = json.loads(record.read_text())["a.yaml"]
    (tmp_path / TARGET / "link").symlink_to(tmp_path)
    record.write_text(json.dumps({"../victim": digest, str(victim): digest, "link/victim": digest}))
    lines(tmp_path, is_forced=True)
    assert victim.exists()


@pytest.mark.parametrize("content", ["theirs", PLAIN.files["a.yaml"]])
def test_a_link_is_not_followed(content: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text(content)
    (tmp_path / "out" / TARGET).mkdir(parents=True)
    (tmp_path / "out" / TARGET / "a.yaml").symlink_to(victim)
    with pytest.raises(OutputError, match=r"a\.yaml"):
        lines(tmp_path / "out")
    assert lines(tmp_path / "out", is_forced=True) == ["wrote a.yaml", "wrote more/b.sh"]
    written = tmp_path / "out" / TARGET / "a.yaml"
    assert (victim.read_text(), written.read_text(), written.is_symlink()) == (content, "a: 1\n", False)


def test_a_directory_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / TARGET).mkdir(parents=True)
    (tmp_path / "out" / TARGET / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"more/b\.sh is outside of .*, by a link"):
        lines(tmp_path / "out", is_forced=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/{TARGET}.*: Not a directory"):
        lines(tmp_path / "file")


def test_what_was_written_before_a_failure_is_known_as_ours(tmp_path: Path) -> None:
    (tmp_path / TARGET).mkdir()
    (tmp_path / TARGET / "more").write_text("no directory")
    for written in (PLAIN, PLAIN._replace(files={**PLAIN.files, "a.yaml": "a: 2\n"})):
        with pytest.raises(OutputError, match="cannot write"):
            lines(tmp_path, written)
    (tmp_path / TARGET / "more").unlink()
    new = PLAIN._replace(files={**PLAIN.files, "a.yaml": "a: 3\n"})
    assert lines(tmp_path, new) == ["wrote a.yaml", "wrote more/b.sh"]
    assert lines(tmp_path, new) == ["unchanged a.yaml", "unchanged more/b.sh"]


def test_a_program_that_cannot_be_run_any_more_is_written_again(tmp_path: Path) -> None:
    lines(tmp_path)
    (tmp_path / TARGET / "more" / "b.sh").chmod(0o644)
    assert lines(tmp_path) == ["wrote more/b.sh", "unchanged a.yaml"]
    assert os.access(tmp_path / TARGET / "more" / "b.sh", os.X_OK)


def test_a_dry_run_says_what_would_be_and_does_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert lines(output, is_dry=True) == ["would write a.yaml", "would write more/b.sh"]
    assert not output.exists()
    lines(output)
    (output / TARGET / "a.yaml").write_text("mine")
    new = changed(a_yaml="a: 2\n", c_yaml="")
    assert lines(output, new, is_dry=True) == [
        "in the way, want --force: a.yaml",
        "would write c.yaml",
        "would remove more/b.sh",
    ]
    assert lines(output, new, is_dry=True, is_forced=True)[0] == "would write a.yaml"
    assert (output / TARGET / "a.yaml").read_text() == "mine"


def test_the_next_command_is_one_that_a_shell_takes(tmp_path: Path) -> None:
    *_, last = write([PLAIN], tmp_path / "my files")
    assert last.startswith("next: ")
    assert f"'{tmp_path}/my files/{TARGET}'" in last


def test_standard_output_has_one_file_as_it_is_and_several_as_an_archive() -> None:
    assert to_stdout([changed(a_yaml="a: ü\n")]) == "a: ü\n".encode()
    content = to_stdout([PLAIN])
    assert content == to_stdout([PLAIN])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries = {entry.name: entry.mode for entry in archive}
        assert entries == {f"{TARGET}/a.yaml": 0o644, f"{TARGET}/more/b.sh": 0o755}
        member = archive.extractfile(f"{TARGET}/a.yaml")
        assert member is not None
        assert member.read() == b"a: 1\n"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text(fields()))
    return path


def test_the_command_writes_files_and_says_which(example: Path, tmp_path: Path) -> None:
    done = decant("deploy", "render", "--target", TARGET, "-o", tmp_path / "out", example)
    assert (done.returncode, done.stderr) == (0, b"")
    *written, following = done.stdout.decode().splitlines()
    found = {str(path) for path in (tmp_path / "out" / TARGET).rglob("*") if path.is_file() and path.name != RECORD}
    assert {line.removeprefix("wrote ") for line in written} == found
    assert following.startswith("next: ")


def test_the_command_reads_and_writes_standard_streams(example: Path, tmp_path: Path) -> None:
    content = example.read_bytes()
    done = decant("deploy", "render", "--target", TARGET, "-o", "-", "-", stdin=content)
    assert (done.returncode, done.stderr) == (0, b"")
    ((_, files, _),) = render(manifest(), [TARGET])[0]
    assert done.stdout == to_stdout([Rendered(TARGET, files, "digits")])
    done = decant("deploy", "render", "--target", TARGET, "--dry_run", "-o", "-", "-", stdin=content)
    assert done.stdout.decode().splitlines() == [f"{TARGET}/{name}" for name in files]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_standard_output_that_takes_nothing_is_a_failure_in_a_line(example: Path) -> None:
    command = [sys.executable, "-m", "handlers.cli", "deploy", "render", "--target", TARGET, "-o", "-", str(example)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, cwd=ROOT, timeout=60, env=clean_environment()
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "decant: cannot write standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"name: [", "decant: standard input: 1:8: this is no YAML: "),
        (b"\xff", "decant: standard input: has bytes that are no UTF-8 at 0; want text"),
        (b"#" * (1 << 20), "decant: standard input: it has 524289 characters; want 131072 at most"),
    ],
)
def test_what_is_no_manifest_is_bad_usage(content: bytes, complaint: str) -> None:
    done = decant("deploy", "render", "--target", TARGET, "-", stdin=content)
    assert (done.returncode, done.stdout) == (64, b"")
    assert done.stderr.decode().startswith(complaint)
    assert done.stderr.count(b"\n") == 1


def test_a_manifest_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    done = decant("deploy", "render", "--target", TARGET, tmp_path / "none.yaml")
    assert (done.returncode, done.stderr.decode()) == (
        64,
        f"decant: cannot read {tmp_path}/none.yaml: No such file or directory\n",
    )


def test_a_target_that_there_is_none_of_is_bad_usage(example: Path) -> None:
    done = decant("deploy", "render", "--target", "heroku", example)
    assert done.returncode == 64
    assert "invalid choice: 'heroku'" in done.stderr.decode()


def test_a_file_in_the_way_is_a_failure(example: Path, tmp_path: Path) -> None:
    arguments = ["deploy", "render", "--target", TARGET, "-o", str(tmp_path / "out"), str(example)]
    assert decant(*arguments).returncode == 0
    for path in (tmp_path / "out" / TARGET).iterdir():
        path.write_text("mine")
    done = decant(*arguments)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("decant: not written by this command, or edited since: ")
    assert decant(*arguments, "--force").returncode == 0


def test_what_a_platform_cannot_is_said_and_with_all_the_others_are_written(tmp_path: Path) -> None:
    example = tmp_path / "models.yaml"
    # Which Google's and Azure's serverless platforms have not.
    example.write_text(text(fields(architecture="arm64")))
    done = decant("deploy", "render", "--target", "cloud-run", "-o", tmp_path / "one", example)
    assert (done.returncode, done.stdout) == (64, b"")
    assert done.stderr.decode().startswith("decant: cloud-run: not rendered: architecture is arm64; want amd64")
    assert not (tmp_path / "one").exists()
    done = decant("deploy", "render", "--target", "all", "-o", tmp_path / "all", example)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().startswith("decant: cloud-run: not rendered: architecture is arm64; want amd64")
    assert (tmp_path / "all" / TARGET).is_dir()
    assert not (tmp_path / "all" / "cloud-run").exists()


def test_the_targets_are_listed_with_a_line_each() -> None:
    done = decant("deploy", "targets")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == list(TARGETS)


def test_the_example_can_be_rendered_as_it_is() -> None:
    printed = decant("deploy", "example").stdout
    assert decant("deploy", "render", "--target", TARGET, "-o", "-", "-", stdin=printed).returncode == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/x", "a/../b", "a//b", "a/", "a\\b", "a\nb", RECORD])
def test_no_file_has_a_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(ManifestError, match="would be a file's name"):
        check_name(name)
