"""The plan file: how one bundle is run best on one machine, as `corella-edge tune` measured it.

A bundle never changes and depends on no machine; what does belong to a machine lives in the user's state folder, under
the hash of the bundle's manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from corella_edge.atomic import write_file
from corella_edge.bundle.artefact import MANIFEST, not_a_bundle, sha256
from corella_edge.errors import BundleError, InputError
from corella_edge.formats.strict_json import decode
from corella_edge.messages import check
from corella_edge_runtime.box import cpu_model, state_folder

FORMAT_VERSION = 1
MAX_BYTES = 2**20
# Another release of one of these may turn the order of what was measured.
PACKAGES = ("corella-edge", "onnxruntime", "onnxruntime-gpu", "llama-cpp-python")


def _said(pattern: str, words: str) -> Meta:
    """A text of this form, and what an error calls it."""
    return Meta(pattern=pattern, extra={"words": words})


Core = Annotated[int, Meta(ge=0)]
Milliseconds = Annotated[float, Meta(ge=0, lt=1e9)]
FileName = Annotated[str, _said(r"^[^./\\\x00][^/\\\x00]*\Z", "the name of a bundle's file")]
Hash = Annotated[str, _said(r"^[0-9a-f]{64}\Z", "64 hexadecimal digits")]


class Fingerprint(Struct, frozen=True, forbid_unknown_fields=True):
    """What a measurement is good for: one CPU model, these logical CPUs, this quota (CPUs; None = no limit)."""

    cpu: str
    cores: tuple[Core, ...]
    quota: Annotated[float, Meta(gt=0, lt=1e9)] | None
    versions: dict[str, str]

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


class PlanBundle(Struct, frozen=True, forbid_unknown_fields=True):
    """sha256 of the bundle's manifest.json; `name@version`, for people."""

    manifest_sha256: Hash
    label: str


class PlanCrm(Struct, frozen=True, forbid_unknown_fields=True):
    """No cores = wherever the system puts it."""

    file: FileName
    threads: Annotated[int, Meta(ge=1)]
    cores: tuple[Core, ...]


class PlanLlm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The variant; `LlmSettings` as JSON; the weights of the adapters it was measured with; what asking costs so: a
    request's first candidate, and each further one."""

    file: FileName
    settings: dict[str, Any]
    adapters: dict[str, float] = {}
    ask_ms: tuple[Milliseconds, Milliseconds] | None = None


class Plan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to load and how to run it; the fields are those of the file.

    Attributes:
        created: date and time, ISO 8601.
        llm: None where there was no LLM to measure.
        table: what was measured, one object a comparison; for people, nothing reads it.
    """

    format_version: int
    bundle: PlanBundle
    created: str
    machine: Fingerprint
    crm: PlanCrm
    llm: PlanLlm | None
    table: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = to_builtins(self)
        return found

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """From decoded JSON.

        Raises:
            InputError: names the field that is missing, unknown or wrong.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise InputError(f"format_version {version!r:.80} is not known, this release reads {FORMAT_VERSION}")
        return check(data, cls, "the file")


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
        if plan.bundle.manifest_sha256 != key:
            made_for = f"{plan.bundle.label}, manifest {plan.bundle.manifest_sha256[:16]}"
            raise InputError(f"is of another bundle ({made_for}), not of {bundle}")
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
