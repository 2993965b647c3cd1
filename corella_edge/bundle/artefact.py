"""The artefact on disk: a folder of plain files under a manifest of their hashes.

A bundle is written once (`atomic.new_folder`) and never changed, but for a signature that may be laid beside the
manifest. `Bundle.open` checks that exactly the listed files are there and that each has the listed hash, and names the
one that differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corella_edge.adapters import NONE, Adapters, file_of, names_in
from corella_edge.bundle.files import NAME, decode, read_bytes, read_json, shown
from corella_edge.bundle.schema_files import read_catalog, read_schema
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, NoBundleError
from corella_edge.features.schema import Schema
from corella_edge.prompt import Template, Tokens
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.policy import Calibration, Routing
from corella_edge.routing.routing_file import CALIBRATED_ON, parse_calibration, parse_routing, read_fusion

if TYPE_CHECKING:
    from corella_edge.bundle.signature import TrustedKey

FORMAT_VERSION, WITH_ADAPTERS = 1, 2  # the second one: a reader of the first would ask the LLM without its adapters
MANIFEST, SEAL, SIGNATURE = "manifest.json", "manifest.sha256", "manifest.json.minisig"
_OWN = (MANIFEST, SEAL, SIGNATURE)
POPULAR, EVENTS = "popular.jsonl", "events.json"  # optional
ROUTING = "routing.json"
LLM, ADAPTERS = "llm.gguf", "adapters.json"  # optional
TEXT, TOKENIZER = "text.onnx", "text/tokenizer.json"  # optional: what makes vectors of words
TEXT_REFERENCE = "text/reference.jsonl"  # optional: texts with the trained encoder's own vectors
CRM_FILES = ("crm.onnx", "crm.int8.onnx")
REQUIRED = ("schema.json", "catalog.jsonl", "crm.onnx", "routing.json", "verification.json", "reference.jsonl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXT, _OBJECT = (str, "a text"), (dict, "an object")
_HEAD = {"name": _TEXT, "version": _TEXT, "files": _OBJECT, "about": _OBJECT}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One listed file: lower-case hexadecimal sha256 and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself."""

    name: str
    version: str
    files: Mapping[str, FileEntry]
    about: Mapping[str, Any]

    @classmethod
    def parse(cls, data: Any) -> Manifest:
        """From decoded JSON; anything unexpected is a `BundleError`."""
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST}: expected an object")
        found = data.get("format_version")
        if type(found) is not int or found not in (FORMAT_VERSION, WITH_ADAPTERS):
            raise BundleError(
                f"{MANIFEST}: format_version {shown(found)} is not known, this release reads {FORMAT_VERSION} and "
                f"{WITH_ADAPTERS}; use a matching release of corella-edge"
            )
        for key, (kind, wanted) in _HEAD.items():
            if not isinstance(data.get(key), kind):
                raise BundleError(f"{MANIFEST}: {key} is missing or not {wanted}")
        files = {name: _entry(name, value) for name, value in data["files"].items()}
        made = cls(data["name"], data["version"], _checked_names(files), data["about"])
        if found != made.format_version:
            raise BundleError(f"{MANIFEST}: format_version {found}, but a bundle of these files has "
                              f"{made.format_version} ({WITH_ADAPTERS}: with adapters)")  # fmt: skip
        return made

    @property
    def format_version(self) -> int:
        """The first one in which a bundle of these files is understood."""
        return WITH_ADAPTERS if ADAPTERS in self.files else FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        files = {name: {"sha256": e.sha256, "size": e.size} for name, e in sorted(self.files.items())}
        head = {"format_version": self.format_version, "name": self.name, "version": self.version}
        return {**head, "files": files, "about": dict(self.about)}


def _entry(name: str, value: Any) -> FileEntry:
    sha, size = (value.get("sha256"), value.get("size")) if isinstance(value, dict) else (None, None)
    if not isinstance(sha, str) or not _SHA256.fullmatch(sha) or type(size) is not int or size < 0:
        raise BundleError(f"{MANIFEST}: the entry of {shown(name)} lacks a proper sha256 and size")
    return FileEntry(sha, size)


def _checked_names(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    for name in files:
        if not NAME.fullmatch(name) or {".", ".."} & set(name.split("/")) or name in _OWN:
            raise BundleError(f"{MANIFEST}: {shown(name)} is not a file name of a bundle")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{MANIFEST}: the bundle lacks {missing[0]}")
    _check_pairs(files)
    return files


def _check_pairs(files: Collection[str]) -> None:
    """A CRM whose events are read by a graph of their own has one for each of its forms; of the two graphs by which a
    catalogue is ranked there is none or both; adapters are listed, and are of an LLM."""
    with_adapters = bool(names_in(files))
    if with_adapters != (ADAPTERS in files) or (with_adapters and LLM not in files):
        lacks = ADAPTERS if ADAPTERS not in files else LLM if with_adapters else "an adapter"
        raise BundleError(f"{MANIFEST}: the bundle lacks {lacks}, which belongs to its adapters")
    of_products = product_files(CRM_FILES[0])
    if len(there := [name for name in of_products if name in files]) == 1:
        (lacks,) = {*of_products} - {*there}
        raise BundleError(f"{MANIFEST}: the bundle has {there[0]} and lacks {lacks}, which belongs to it")
    readers = [events_file(name) for name in CRM_FILES]
    if not set(readers) & set(files):
        return
    for name, reader in zip(CRM_FILES, readers, strict=True):
        if (name in files) != (reader in files):
            lacks, has = (reader, name) if name in files else (name, reader)
            raise BundleError(f"{MANIFEST}: the bundle has {has} and lacks {lacks}, which belongs to it")


def events_file(name: str) -> str:
    """The graph that reads events for a CRM's file: crm.events.onnx for crm.onnx, crm.events.int8.onnx for its INT8."""
    return _part_of(name, "events")


def product_files(name: str) -> tuple[str, str]:
    """The graphs that rank a catalogue for a CRM's file by one matrix product: of crm.onnx crm.items.onnx, which makes
    the items' vectors, and crm.product.onnx, which multiplies them."""
    return _part_of(name, "items"), _part_of(name, "product")


def _part_of(name: str, part: str) -> str:
    first, _, rest = name.partition(".")
    return f"{first}.{part}.{rest}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, checked bundle. The parts are read on demand."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, root: Path, trust: TrustedKey | None = None) -> Bundle:
        """Check the manifest's signature, if a key is trusted, and then every file against the manifest.

        Raises:
            BundleError: not signed with that key; or the first file that is missing, extra, a link, or different.
        """
        bundle = cls(root, read_manifest(root, trust))
        for problem in bundle.problems():
            raise BundleError(f"{root}: {problem}")
        return bundle

    @property
    def label(self) -> str:
        """`name@version`, as answers show it."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def problems(self) -> Iterator[str]:
        """One line for each file that is not as listed, cheap checks first."""
        listed = self.manifest.files
        try:
            present = dict(sorted(walk(self.root)))
        except OSError as error:
            yield f"cannot be read ({error})"
            return
        regular = {name for name, path in present.items() if path.is_file() and not path.is_symlink()}
        for name in present:
            if name not in regular:
                yield f"{name}: not a regular file"
            elif name not in listed and name not in _OWN:
                yield f"{name}: not listed in {MANIFEST}"
        for name, entry in listed.items():
            if name not in present:
                yield f"{name}: missing"
            elif name in regular and (problem := _difference(self.root / name, entry)):
                yield f"{name}: {problem}"

    def path(self, name: str) -> Path:
        return self.root / name

    def has(self, name: str) -> bool:
        return name in self.manifest.files

    def json(self, name: str) -> dict[str, Any]:
        return read_json(self.path(name))

    def schema(self) -> tuple[Schema, Catalog]:
        return read_schema(self.root)

    def catalog(self) -> Catalog:
        return read_catalog(self.root)

    def prompt(self) -> tuple[Template, Tokens] | None:
        """The prompt template and its token ids; None for a bundle without an LLM."""
        if not self.has("prompt.json"):
            return None
        data = self.json("prompt.json")
        if not isinstance(data.get("template"), dict) or not isinstance(data.get("tokens"), dict):
            raise BundleError("prompt.json: expected the objects 'template' and 'tokens'")
        return Template.from_json(data["template"]), Tokens.from_json(data["tokens"])

    def adapters(self) -> Adapters:
        """Those beside the LLM; none for a bundle without adapters.

        Raises:
            BundleError: the list is damaged, or is not of the files that are there.
        """
        if not self.has(ADAPTERS):
            return NONE
        found, there = Adapters.parse(self.json(ADAPTERS)), names_in(self.manifest.files)
        for name in {*found.names} ^ {*there}:
            lacks = ADAPTERS if name in there else f"the file {file_of(name)}"
            raise BundleError(f"{ADAPTERS}: the adapter {shown(name)} is missing in {lacks}")
        return found

    def routing(self) -> Routing:
        """Which candidates the LLM is asked about, and how both scores of a routed row become one."""
        return parse_routing(self.json(ROUTING))

    def calibration(self) -> Calibration:
        """Entropy ↔ routed share, from held-out rows."""
        return parse_calibration(self.json(ROUTING))

    def calibrated_on(self) -> str:
        """`name@version` of the bundle whose catalogue the thresholds are of; empty where it is this one's."""
        return str(self.json(ROUTING).get(CALIBRATED_ON, ""))

    def fusion(self) -> Fusion:
        """How both scores of a routed row become one; the LLM's replaces the CRM's where the bundle does not say."""
        return read_fusion(self.json(ROUTING))

    def tolerance(self) -> dict[str, float]:
        """By how much two computations of a model's probability (`crm`, `llm`), or of a vector (`text`), may differ, as
        verification.json says; without a model of which it does not say it, or says what is no such number."""
        found = self.json("verification.json").get("tolerance")
        given = found.items() if isinstance(found, dict) else ()
        return {name: float(value) for name, value in given if type(value) in (int, float) and 0.0 <= value <= 1.0}

    def event_types(self) -> tuple[str, ...] | None:
        """The types of events that form histories; None = every event does. Events without a type always do."""
        if not self.has(EVENTS):
            return None
        types = self.json(EVENTS).get("history")
        if not isinstance(types, list) or not types or not all(isinstance(name, str) for name in types):
            raise BundleError(f"{EVENTS}: history is not a list of types of events")
        return tuple(types)


def not_a_bundle(root: Path, kind: str = "bundle") -> BundleError:
    """What is said of a place without a manifest; `kind` is what was looked for there."""
    if root.is_dir():
        run = (root / "run.json").is_file()
        made = "; it is a training run, and `corella-edge export` makes a bundle of it" if run else ""
        return BundleError(f"{root}: not a {kind} ({MANIFEST} is missing){made}")
    return NoBundleError(f"{root}: not a {kind} ({'it is a file' if root.exists() else 'there is no such folder'})")


def read_manifest(root: Path, trust: TrustedKey | None = None) -> Manifest:
    """The manifest, after its signature (if a key is trusted) and its own seal have been checked."""
    if not (root / MANIFEST).is_file():
        raise not_a_bundle(root)
    raw = read_bytes(root / MANIFEST)
    if trust is not None:
        trust.check(root, raw)
    if not (root / SEAL).is_file():
        raise BundleError(f"{root}: {SEAL} is missing")
    if read_bytes(root / SEAL) != seal_of(raw):
        raise BundleError(f"{root}: {MANIFEST} does not match {SEAL}; one of the two was changed")
    return Manifest.parse(decode(raw, MANIFEST))


def seal_of(manifest: bytes) -> bytes:
    """Contents of the seal file, in the form `sha256sum -c` reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def sha256(path: Path) -> str:
    """Lower-case hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(path: Path, entry: FileEntry) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"{size} bytes, {entry.size} expected"
        return "" if sha256(path) == entry.sha256 else "its contents differ from the exported ones (sha256)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to root, path) of everything that is not a real directory; links are not followed."""
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{name}", below) for name, below in walk(path))
        else:
            yield path.name, path


def seal(folder: Path, name: str, version: str, about: Mapping[str, Any]) -> Manifest:
    """List and hash every file of a filled folder, write the manifest and its seal."""
    paths = sorted(walk(folder))
    files = {n: FileEntry(sha256(p), p.stat().st_size) for n, p in paths if n not in _OWN}
    manifest = Manifest(name, version, _checked_names(files), about)
    raw = (json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    (folder / SEAL).write_bytes(seal_of(raw))
    return manifest
