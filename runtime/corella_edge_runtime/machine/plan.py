"""The plan file: how one bundle is run best on one machine, as `corella-edge tune` measured it.

A bundle never changes and depends on no machine; what does belong to a machine lives in the user's state folder, under
the hash of the bundle's manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.bundle.artefact import MANIFEST, not_a_bundle, sha256
from corella_edge.errors import BundleError, InputError
from corella_edge.formats.strict_json import decode
from corella_edge_runtime.box import cpu_model, state_folder

FORMAT_VERSION = 1
MAX_BYTES = 2**20
# Another release of one of these may turn the order of what was measured.
PACKAGES = ("corella-edge", "onnxruntime", "onnxruntime-gpu", "llama-cpp-python")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a measurement is good for: one CPU model, these logical CPUs, this quota (CPUs; None = no limit)."""

    cpu: str
    cores: tuple[int, ...]
    quota: float | None
    versions: Mapping[str, str]

    def difference(self, other: Fingerprint) -> str:
        """The first thing in which another machine differs, as a phrase; empty if nothing does."""
        if self.cpu != other.cpu:
            return f"made on another CPU ({self.cpu}, this is {other.cpu})"
        if (self.cores, self.quota) != (other.cores, other.quota):
            return f"made with {self._room()}, now it is {other._room()}"
        for name in sorted(self.versions.keys() | other.versions.keys()):
            then, now = self.versions.get(name), other.versions.get(name)
            if then != now:
                return f"made with {name} {then or 'missing'}, now it is {now or 'missing'}"
        return ""

    def _room(self) -> str:
        quota = "" if self.quota is None else f" and a CPU quota of {self.quota:g}"
        return f"the core(s) {', '.join(map(str, self.cores))}{quota}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load and how to run it.

    Attributes:
        bundle: sha256 of the bundle's manifest.json, 64 hexadecimal digits.
        label: `name@version` of the bundle, for people.
        created: date and time, ISO 8601.
        crm_file, crm_threads, crm_cores: the CRM's; no cores = wherever the system puts it.
        llm_file: the variant; None where there was no LLM to measure.
        llm: `LlmSettings` as JSON; empty where `llm_file` is None.
        table: what was measured, one object a comparison; for people, nothing reads it.
    """

    bundle: str
    label: str
    created: str
    machine: Fingerprint
    crm_file: str
    crm_threads: int
    crm_cores: tuple[int, ...]
    llm_file: str | None = None
    llm: Mapping[str, Any] = field(default_factory=dict)
    table: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        box = self.machine
        return {
            "format_version": FORMAT_VERSION,
            "bundle": {"manifest_sha256": self.bundle, "label": self.label},
            "created": self.created,
            "machine": {"cpu": box.cpu, "cores": list(box.cores), "quota": box.quota, "versions": dict(box.versions)},
            "crm": {"file": self.crm_file, "threads": self.crm_threads, "cores": list(self.crm_cores)},
            "llm": None if self.llm_file is None else {"file": self.llm_file, "settings": dict(self.llm)},
            "table": [dict(row) for row in self.table],
        }

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """From decoded JSON.

        Raises:
            InputError: names the field that is missing, unknown or wrong.
        """
        top = _Fields("", data, "format_version", "bundle", "created", "machine", "crm", "llm", "table")
        found = top.data["format_version"]
        if type(found) is not int or found != FORMAT_VERSION:
            raise InputError(f"format_version {found!r:.80} is not known, this release reads {FORMAT_VERSION}")
        bundle = _Fields("bundle", top.data["bundle"], "manifest_sha256", "label")
        crm = _Fields("crm", top.data["crm"], "file", "threads", "cores")
        llm = None if top.data["llm"] is None else _Fields("llm", top.data["llm"], "file", "settings")
        return cls(
            bundle=bundle.hash("manifest_sha256"),
            label=bundle.text("label"),
            created=top.text("created"),
            machine=_machine(top.data["machine"]),
            crm_file=crm.file("file"),
            crm_threads=crm.count("threads"),
            crm_cores=crm.cores("cores"),
            llm_file=llm.file("file") if llm else None,
            llm=llm.object("settings") if llm else {},
            table=tuple(top.objects("table")),
        )


def _machine(data: Any) -> Fingerprint:
    box = _Fields("machine", data, "cpu", "cores", "quota", "versions")
    quota, versions = box.data["quota"], box.object("versions")
    if quota is not None and (type(quota) not in (int, float) or not 0 < quota < 1e9):
        raise box.wrong("quota", "a positive number or null")
    if not all(isinstance(value, str) for value in versions.values()):
        raise box.wrong("versions", "an object of texts")
    return Fingerprint(box.text("cpu"), box.cores("cores"), None if quota is None else float(quota), versions)


class _Fields:
    """An object with exactly the named fields, read with checks."""

    def __init__(self, where: str, data: Any, *names: str) -> None:
        self._where = f"{where}." if where else ""
        if not isinstance(data, dict):
            raise InputError(f"{where or 'the file'}: expected an object")
        for name in sorted(data.keys() ^ set(names)):
            if name in data:
                raise InputError(f"{where or 'the file'}: unknown field {name[:40]!r}")
            raise InputError(f"{self._where}{name}: missing")
        self.data: dict[str, Any] = data

    def wrong(self, name: str, wanted: str) -> InputError:
        return InputError(f"{self._where}{name}: expected {wanted}, got {repr(self.data[name])[:80]}")

    def text(self, name: str) -> str:
        if not isinstance(self.data[name], str):
            raise self.wrong(name, "a text")
        return str(self.data[name])

    def hash(self, name: str) -> str:
        text = self.text(name)
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise self.wrong(name, "64 hexadecimal digits")
        return text

    def file(self, name: str) -> str:
        text = self.text(name)
        if not text or set(text) & {"/", "\\", "\0"} or text.startswith("."):
            raise self.wrong(name, "the name of a bundle's file")
        return text

    def count(self, name: str) -> int:
        if type(self.data[name]) is not int or self.data[name] < 1:
            raise self.wrong(name, "a whole number from 1")
        return int(self.data[name])

    def cores(self, name: str) -> tuple[int, ...]:
        value = self.data[name]
        if not isinstance(value, list) or not all(type(core) is int and core >= 0 for core in value):
            raise self.wrong(name, "a list of CPU numbers")
        return tuple(value)

    def object(self, name: str) -> dict[str, Any]:
        if not isinstance(self.data[name], dict):
            raise self.wrong(name, "an object")
        return dict(self.data[name])

    def objects(self, name: str) -> Sequence[dict[str, Any]]:
        value = self.data[name]
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise self.wrong(name, "a list of objects")
        return value


def find(
    bundle: Path,
    explicit: Path | None,
    machine: Fingerprint,
    check: Callable[[Plan], None],
    warn: Callable[[str], None],
) -> Plan | None:
    """The plan to use for the bundle in folder `bundle`, or None.

    Args:
        explicit: a plan file that the user named; None = the usual place, where none may be, and where one that is
            damaged is ignored.
        machine: this one; a plan of another machine is ignored.
        check: see `read`.
        warn: told why a plan is ignored.

    Raises:
        InputError: the named file is damaged, cannot be read or followed, or is of another bundle.
    """
    key = bundle_key(bundle)
    path = explicit or _usual(key, warn)
    if path is None:
        return None

    def follow(plan: Plan) -> None:
        if plan.bundle != key:
            raise InputError(f"is of another bundle ({plan.label}, manifest {plan.bundle[:16]}), not of {bundle}")
        check(plan)

    try:
        plan = read(path, follow)
    except InputError as error:
        if explicit:
            raise
        warn(f"no plan is used: {error}")
        return None
    if difference := plan.machine.difference(machine):
        warn(f"the plan {path} is not used: {difference}; run `corella-edge tune` again")
        return None
    return plan


def _usual(key: str, warn: Callable[[str], None]) -> Path | None:
    """The usual place, if a file is there; `warn` is told if that cannot be known."""
    try:
        path = default_path(key)
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InputError as error:
        warn(f"no plan is used: {error}")
        return None
    except OSError as error:
        warn(f"no plan is used: {path} cannot be reached ({error.strerror}); set XDG_STATE_HOME to another folder")
        return None
    return path


def read(path: Path, check: Callable[[Plan], None] = lambda _: None) -> Plan:
    """A plan file.

    Args:
        check: raises InputError, which names the field, for a plan that cannot be followed.

    Raises:
        InputError: it cannot be read or followed, or is not what `write` writes; names the file, says what to do.
    """
    advice = "remove it or run `corella-edge tune` again"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES} bytes")
        plan = Plan.from_json(decode(path.read_bytes()))
        check(plan)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; {advice}") from None
    return plan


def write(plan: Plan, path: Path) -> None:
    """Write or replace a plan file; a reader sees the old one or the new. Raises InputError."""
    raw = json.dumps(plan.to_json(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made: {error.strerror}") from None
    write_file(path, raw.encode())


def bundle_key(bundle: Path) -> str:
    """sha256 of the bundle's manifest: what its plan is filed under.

    Raises:
        BundleError: there is no manifest.
    """
    try:
        return sha256(bundle / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise not_a_bundle(bundle) from None
    except OSError as error:
        raise BundleError(f"{bundle}: not a bundle ({MANIFEST}: {error.strerror})") from None


def default_path(key: str) -> Path:
    """Where the plan of a bundle lies. Raises InputError as `state_folder`."""
    return state_folder() / "plans" / f"{key[:16]}.json"


def fingerprint(cores: Sequence[int], quota: float | None, builds: Mapping[str, str] | None = None) -> Fingerprint:
    """This machine: its CPU model and the installed packages, with what the process may use of it.

    `builds`: name → what tells a build of it from another of the same version.
    """
    return Fingerprint(cpu_model(), tuple(cores), quota, {**_versions(), **(builds or {})})


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
