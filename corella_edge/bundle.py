"""The artefact on disk: a folder of plain files under a manifest of their hashes.

A bundle is written once (`atomic.new_folder`) and never changed. `Bundle.open`
checks that exactly the listed files are there and that each has the listed hash, and names the one that differs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.prompt import Template, Tokens
from corella_edge.router import Calibration
from corella_edge.schema import Schema, Vocabulary

FORMAT_VERSION = 1
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
REQUIRED = ("schema.json", "catalog.jsonl", "crm.onnx", "routing.json", "verification.json", "reference.jsonl")
MAX_JSON_BYTES = 64 * 2**20
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


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
        if found != FORMAT_VERSION or isinstance(found, bool):
            raise BundleError(
                f"{MANIFEST}: format_version {found!r} is not known, this release reads {FORMAT_VERSION}; "
                "use a matching release of corella-edge"
            )
        try:
            files = {name: FileEntry(entry["sha256"], entry["size"]) for name, entry in data["files"].items()}
            return cls(str(data["name"]), str(data["version"]), _checked_names(files), dict(data["about"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BundleError(f"{MANIFEST}: a field is missing or of the wrong type ({error!r})") from None

    def to_json(self) -> dict[str, Any]:
        files = {name: {"sha256": e.sha256, "size": e.size} for name, e in sorted(self.files.items())}
        head = {"format_version": FORMAT_VERSION, "name": self.name, "version": self.version}
        return {**head, "files": files, "about": dict(self.about)}


def _checked_names(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    for name in files:
        if not _NAME.fullmatch(name) or ".." in PurePosixPath(name).parts or name in (MANIFEST, SEAL):
            raise BundleError(f"{MANIFEST}: {name[:80]!r} is not a file name of a bundle")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{MANIFEST}: the bundle lacks {missing[0]}")
    return files


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, checked bundle. The parts are read on demand."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, root: Path) -> Bundle:
        """Check every file against the manifest.

        Raises:
            BundleError: naming the first file that is missing, extra, a link, or different.
        """
        bundle = cls(root, read_manifest(root))
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
        present = sorted(_walk(self.root))
        for name, path in present:
            if path.is_symlink() or not path.is_file():
                yield f"{name}: not a regular file"
            elif name not in listed and name not in (MANIFEST, SEAL):
                yield f"{name}: not listed in {MANIFEST}"
        there = {name for name, path in present if not path.is_symlink()}
        for name, entry in listed.items():
            if name not in there:
                yield f"{name}: missing"
            elif (self.root / name).stat().st_size != entry.size:
                yield f"{name}: {(self.root / name).stat().st_size} bytes, {entry.size} expected"
            elif sha256(self.root / name) != entry.sha256:
                yield f"{name}: its contents differ from the exported ones (sha256)"

    def path(self, name: str) -> Path:
        return self.root / name

    def has(self, name: str) -> bool:
        return name in self.manifest.files

    def json(self, name: str) -> dict[str, Any]:
        return read_json(self.path(name))

    def schema(self) -> tuple[Schema, Catalog]:
        return read_schema(self.root)

    def prompt(self) -> tuple[Template, Tokens] | None:
        """The prompt template and its token ids; None for a bundle without an LLM."""
        if not self.has("prompt.json"):
            return None
        data = self.json("prompt.json")
        try:
            return Template.from_json(data["template"]), Tokens(**data["tokens"])
        except (KeyError, TypeError) as error:
            raise BundleError(f"prompt.json: a field is missing or wrong ({error!r})") from None

    def calibration(self) -> Calibration:
        """Threshold ↔ routed share, from held-out rows."""
        data = self.json("routing.json")
        try:
            return Calibration(data["calibration"]["shares"], data["calibration"]["thresholds"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"routing.json: a field is missing or wrong ({error!r})") from None

    def policy(self) -> str:
        """The threshold used when none is given."""
        return str(self.json("routing.json").get("threshold", "ratio:0"))


def read_manifest(root: Path) -> Manifest:
    """The manifest, after its own seal has been checked."""
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: not a bundle ({MANIFEST} is missing)")
    raw = (root / MANIFEST).read_bytes()
    try:
        seal = (root / SEAL).read_bytes()
    except OSError:
        raise BundleError(f"{root}: {SEAL} is missing") from None
    if seal != seal_of(raw):
        raise BundleError(f"{root}: {MANIFEST} does not match {SEAL}; one of the two was changed")
    try:
        return Manifest.parse(json.loads(raw))
    except ValueError as error:
        raise BundleError(f"{root}: {MANIFEST} is not JSON ({error})") from None


def seal_of(manifest: bytes) -> bytes:
    """Contents of the seal file, in the form `sha256sum -c` reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def sha256(path: Path) -> str:
    """Lower-case hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a bundle file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BundleError(f"{path.name}: larger than {MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name}: can not be read ({error})") from None
    if not isinstance(data, dict):
        raise BundleError(f"{path.name}: expected an object")
    return data


def write_schema(folder: Path, schema: Schema, catalog: Catalog) -> None:
    """schema.json (written last), vocab/<name>.json and catalog.jsonl."""
    (folder / "vocab").mkdir(exist_ok=True)
    for vocab in schema.vocabularies.values():
        text = json.dumps(vocab.values, ensure_ascii=False, indent=0)
        (folder / "vocab" / f"{vocab.name}.json").write_text(text, "utf-8")
    with (folder / "catalog.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(catalog.lines())
    (folder / "schema.json").write_text(json.dumps(schema.to_json(), ensure_ascii=False, indent=1), "utf-8")


def read_schema(folder: Path) -> tuple[Schema, Catalog]:
    """What `write_schema` wrote."""
    data = read_json(folder / "schema.json")
    fields = [f for f in data.get("fields", []) if isinstance(f, dict)]
    names = {str(f.get("vocab")) for f in fields if f.get("vocab")}
    names |= {str(f["args"]["vocab"]) for f in fields if "vocab" in f.get("args", {})}
    vocabularies = {name: Vocabulary(name, _vocabulary(folder / "vocab" / f"{name}.json")) for name in sorted(names)}
    return Schema.from_json(data, vocabularies), Catalog.read(folder / "catalog.jsonl")


def _vocabulary(path: Path) -> list[str]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"vocab/{path.name}: can not be read ({error})") from None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BundleError(f"vocab/{path.name}: expected a list of texts")
    return values


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to root, path) of everything that is not a real directory; links are not followed."""
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{name}", below) for name, below in _walk(path))
        else:
            yield path.name, path


def seal(folder: Path, name: str, version: str, about: Mapping[str, Any]) -> Manifest:
    """List and hash every file of a filled folder, write the manifest and its seal."""
    paths = sorted(_walk(folder))
    files = {n: FileEntry(sha256(p), p.stat().st_size) for n, p in paths if n not in (MANIFEST, SEAL)}
    manifest = Manifest(name, version, _checked_names(files), about)
    raw = (json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n").encode()
    (folder / MANIFEST).write_bytes(raw)
    (folder / SEAL).write_bytes(seal_of(raw))
    return manifest
