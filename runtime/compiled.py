"""Compiled models in files, without their weights: importing one takes half the time of compiling the model, or less.

Such a file is a line of JSON, the header, and behind it what OpenVINO has exported. Weights are read from the model's
.bin; but what was computed of some of them, while it was compiled, is in the file. Over another .bin it gives answers
that are neither model's. So it is used where the header says that it is of the very same files, and was compiled by the
same OpenVINO, with the same properties; and where OpenVINO finds that it fits this processor. All others are passed
over, and the model is compiled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from model_cache.compiled import DIRECTORY, MAX_COUNT, MAX_SIZE
from model_cache.disk import DiskCache, Files
from model_cache.manifest import read_manifest
from model_cache.needed import is_compiled
from model_cache.repository import ModelVersion
from runtime.options import ModelOptions

logger = logging.getLogger(__name__)

# One request at a time gets all cores: what a caller waits for on a platform that sends one request at a time.
DEFAULTS = {"PERFORMANCE_HINT": "LATENCY"}
"""Properties that models are compiled with, if others are not asked for."""
SLOW_IMPORTS = 3
"""Imports in a row that took longer than compiling had, after which it is compiled again: a single one may have been
the first to read the weights from the disk."""
_FORMAT = 1
_MAX_HEADER = 16 << 10
_RACY = 2.0
"""Seconds. A file that was changed later than this before we looked may change again and keep its times."""
_READ = 1 << 20
OWN_PROPERTIES = frozenset({"CACHE_DIR", "CACHE_MODE", "WEIGHTS_PATH", "ENABLE_WEIGHTLESS"})
"""With which OpenVINO is told to do other things."""
_CHANGES = "DECANT_CHANGES"
_NAMES = "DECANT_NAMES"
# Who imports a model gives it threads of his own: it is the same model, and as quick, whoever has compiled it with how
# many.
_OF_THE_PROCESS = ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING")


class Unfit(Exception):
    """A file is no compiled model, or none of this model, for these properties or this OpenVINO."""


class Origin(NamedTuple):
    """What a compiled model was made of."""

    model: str
    """SHA-256 of the .xml."""
    size: int
    """Bytes of the .bin."""
    weights: str
    """Its ``crc32c:``, or on this machine ``stat:``, which says which file it is and when that last changed."""


class Header(NamedTuple):
    openvino: str
    requirements: str
    """What OpenVINO says that the processor must have."""
    properties: Mapping[str, str]
    origin: Origin
    size: int
    sha256: str
    compile_seconds: float
    import_seconds: float | None = None
    """As measured by who published it, and then the least on this machine, once one was slow."""
    slow_imports: int = 0
    """How many in a row have taken longer than compiling had."""

    @property
    def is_slow(self) -> bool:
        return self.slow_imports >= SLOW_IMPORTS

    @property
    def name(self) -> str:
        """The file's."""
        return f"{beginning_of(self.properties)}{_release(self.openvino)}-{_short(self.requirements)}.blob"


class CompiledModel(NamedTuple):
    header: Header
    blob: bytes
    """What OpenVINO exported."""

    def with_seconds(self, compiling: float, importing: float) -> CompiledModel:
        """Return the same, with what was measured of it."""
        return self._replace(header=self.header._replace(compile_seconds=compiling, import_seconds=importing))

    def to_bytes(self) -> bytes:
        return json.dumps({"format": _FORMAT, **self.header._asdict()}).encode() + b"\n" + self.blob


def read(path: Path) -> CompiledModel:
    """Read a file of which nothing is known.

    Raises:
        Unfit: it is no compiled model of ours, or not as it was written.
    """
    # To open a pipe would be to wait for who writes to it.
    if not path.is_file():
        raise Unfit("it is no file")
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as exc:
        raise Unfit(f"it cannot be read: {exc.strerror}") from exc
    line, newline, blob = data.partition(b"\n")
    if len(data) > MAX_SIZE or len(line) > _MAX_HEADER or not newline:
        raise Unfit("it has no header, or is too large")
    header = _header(line)
    # OpenVINO is to be given nothing but what it wrote: it is native code, and trusts what it reads.
    if len(blob) != header.size or hashlib.sha256(blob).hexdigest() != header.sha256:
        raise Unfit("it is not what was written")
    return CompiledModel(header, blob)


def _header(line: bytes) -> Header:
    try:
        content: dict[str, Any] = json.loads(line)
        if content.pop("format") != _FORMAT:
            raise Unfit("it is of another format")
        header = Header(**{**content, "origin": Origin(*content["origin"])})
        texts = [header.openvino, header.requirements, header.sha256, header.origin.model, header.origin.weights]
        numbers = [header.compile_seconds, header.import_seconds or 0.0, header.slow_imports, header.size]
        texts += [text for pair in header.properties.items() for text in pair]
        is_good = all(type(text) is str for text in texts) and all(type(number) in (int, float) for number in numbers)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Unfit("its header cannot be understood") from exc
    if not is_good:
        raise Unfit("its header cannot be understood")
    return header


def identity_of(
    config: Mapping[str, str] | None, options: ModelOptions, names: Sequence[Mapping[str, str]] = ()
) -> dict[str, str]:
    """Return what makes models that are compiled so what they are, as `Header.properties`.

    Args:
        config: properties that hold for all models, see `config_of`.
        names: what a model's tensors are called, which is how the options name them.
    """
    config = config_of(config, options)
    properties = {name: value for name, value in config.items() if name not in _OF_THE_PROCESS}
    # What is done to the model before that counts like a property.
    if options.changes:
        properties[_CHANGES] = _sha256(options.changes)
        if any(names):
            properties[_NAMES] = _sha256([sorted(each.items()) for each in names])
    return properties


def config_of(config: Mapping[str, str] | None, options: ModelOptions) -> dict[str, str]:
    """Return all that a model is compiled with: first its own properties, then those of all, then the default ones."""
    return {**DEFAULTS, **(config or {}), **dict(options.properties)}


def beginning_of(identity: Mapping[str, str]) -> str:
    """Return how the names of files begin that are compiled so, whatever the model's tensors are called."""
    return f"{_short(json.dumps(sorted(item for item in identity.items() if item[0] != _NAMES)))}-"


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class CompiledFiles:
    """What there is compiled of one version: beside its files, and in the cache directory."""

    def __init__(
        self,
        version: ModelVersion,
        files: Files,
        xml: Path,
        properties: Mapping[str, str],
        openvino: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            files: leased for as long as this is used.
            xml: the model's; its .bin is there, too.
            openvino: its version.
        """
        self._version = version
        self._files = files
        self._xml = xml
        self.weights = xml.with_suffix(".bin")
        self._properties = properties
        self._openvino = openvino
        self._is_in_place = bool(version.storage.in_place)
        self._stamp = self._stamp_now()
        self._looked_at = clock()

    def fitting(self) -> Iterator[tuple[CompiledModel, bool]]:
        """Yield what may be tried on this processor, and whether it is kept in the cache directory."""
        beginning = f"{beginning_of(self._properties)}{_release(self._openvino)}-"
        for directory, weights in self._places():
            for path in _paths(directory, beginning):
                try:
                    found = read(path)
                    self._check(found.header, weights)
                except (Unfit, OSError) as exc:
                    logger.debug("passing over %s of %s: %s", path.name, self._version, exc)
                else:
                    yield found, directory == self._files.compiled

    def is_unchanged(self) -> bool:
        """Whether the model's files are those that were looked at first."""
        try:
            return self._stamp == self._stamp_now()
        except OSError:
            return False

    def keep(self, compiled: CompiledModel, cache_directory: DiskCache) -> None:
        """Keep it in the cache directory for later processes.

        Raises:
            Unfit: nobody could tell later whether it is of the model that is there then.
            ModelCacheError: as `DiskCache.keep_compiled`.
        """
        if self._is_in_place and (not self.is_unchanged() or not 0 <= self._stamp.changed <= self._looked_at - _RACY):
            raise Unfit("the model's files have only just changed")
        # It may be one that was published for all.
        header = compiled.header._replace(origin=self._origin(self._weights_as_kept()))
        data = CompiledModel(header, compiled.blob).to_bytes()
        cache_directory.keep_compiled(self._version, header.name, data)

    def origin(self) -> Origin:
        """Return what the model's files are, as it is told to all; a model that is read in place is read for it."""
        return Origin(_digest_of(self._xml), self._stamp.size, self._read_checksum())

    def new(self, blob: bytes, requirements: str, seconds: float, origin: Origin | None = None) -> CompiledModel:
        """Return what OpenVINO has exported of this version, as it is told to this machine's or to all.

        Args:
            requirements: as OpenVINO says.
            seconds: that compiling took.
            origin: what the files were before that, if it is told to all.

        Raises:
            Unfit: it is too large to be of use, or nobody knows what it was made of, as the files have changed.
        """
        if len(blob) > MAX_SIZE - _MAX_HEADER:
            raise Unfit(f"it has {len(blob)} bytes; want no more than {MAX_SIZE - _MAX_HEADER}")
        # Read again, as files may change twice within a tick of the clock that their times are taken from.
        if origin is not None and not (self.is_unchanged() and self.origin() == origin):
            raise Unfit("the model's files have changed meanwhile")
        header = Header(
            openvino=self._openvino,
            requirements=requirements,
            properties=self._properties,
            origin=origin or self._origin(self._weights_as_kept()),
            compile_seconds=seconds,
            size=len(blob),
            sha256=hashlib.sha256(blob).hexdigest(),
        )
        return CompiledModel(header, blob)

    def _places(self) -> Iterator[tuple[Path, Callable[[], str]]]:
        if self._files.compiled:
            yield self._files.compiled, self._weights_as_kept
        # What is fetched is in one directory with what is kept.
        if self._is_in_place:
            yield self._files.directory / DIRECTORY, lambda: self._checksum

    def _check(self, header: Header, weights: Callable[[], str]) -> None:
        if header.openvino != self._openvino:
            raise Unfit(f"it was made by OpenVINO {header.openvino}; this is {self._openvino}")
        if header.properties != self._properties:
            raise Unfit(f"it was compiled with {dict(header.properties)}; want {dict(self._properties)}")
        # Cheapest first, as the weights may have to be read.
        if header.origin[:2] != (self._digest, self._stamp.size) or header.origin.weights != weights():
            raise Unfit("it is of another model")

    def _origin(self, weights: str) -> Origin:
        return Origin(self._digest, self._stamp.size, weights)

    def _weights_as_kept(self) -> str:
        return f"stat:{self._stamp.weights}" if self._is_in_place else self._checksum

    @cached_property
    def _digest(self) -> str:
        return _digest_of(self._xml)

    @cached_property
    def _checksum(self) -> str:
        return self._read_checksum()

    def _read_checksum(self) -> str:
        manifest = None if self._is_in_place else read_manifest(self._files.directory)
        found = manifest.crc32c(self.weights.name) if manifest else None
        return f"crc32c:{_crc32c(self.weights) if found is None else found:08x}"

    def _stamp_now(self) -> _Stamp:
        xml, weights = self._xml.stat(), self.weights.stat()
        changed = max(xml.st_ctime, weights.st_ctime, xml.st_mtime, weights.st_mtime)
        return _Stamp(weights.st_size, _which(weights), _which(xml), changed)


class _Stamp(NamedTuple):
    size: int
    weights: str
    xml: str
    changed: float
    """Seconds since the epoch, of the later change."""


def can_be_exported(model: Path, config: Mapping[str, str]) -> bool:
    """Whether a model is one that is imported again without its weights, and there are no `OWN_PROPERTIES`.

    Of an ONNX model it would export what it cannot import: there is no .bin to find the weights in.
    """
    return model.suffix == ".xml" and model.with_suffix(".bin").is_file() and not config.keys() & OWN_PROPERTIES


def _which(found: os.stat_result) -> str:
    # A file's ctime cannot be set by whoever sets its mtime.
    return f"{found.st_dev:x}-{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_ctime_ns:x}"


def _paths(directory: Path, beginning: str) -> list[Path]:
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return []
    found = [path for path in paths if path.name.startswith(beginning) and is_compiled(f"{DIRECTORY}/{path.name}")]
    return found[: 2 * MAX_COUNT]


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _crc32c(path: Path) -> int:
    # Only now: what is compiled is looked at behind the first requests, or where there is something to compare.
    import google_crc32c

    crc32c = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ):
            crc32c = google_crc32c.extend(crc32c, data)
    return crc32c


def _release(openvino: str) -> str:
    """Return what of a version such as 2026.4.1-22982-e213a147257-releases/2026/4 tells releases apart."""
    return re.sub(r"[^0-9A-Za-z.]+", "-", "-".join(openvino.split("-")[:2]))[:40]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
