"""Whether llama.cpp computes on this machine, found out before it is trusted. Knows no llama_cpp.

Before matrices of a type are used for the first time, a process of their own decodes a tiny model of that type
(`trial`), by llama.cpp's plain kernels and with its extra buffer types (AMX, repacked weights). What comes out is
compared with plain arithmetic. The verdict is kept in the user's state folder, under everything that it depends on:
llama.cpp's libraries, the type, the CPU, the kernel of the system.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import isfinite, nan
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.errors import ComputeError, InputError, MissingExtraError
from corella_edge.formats.strict_json import decode
from corella_edge_runtime.box import cpu_flags, cpu_model, state_folder
from corella_edge_runtime.llm.contract import endings
from corella_edge_runtime.llm.llama.dangers import TYPES, matrices_in

FORMAT_VERSION = 1
OK, PLAIN, NONE = "ok", "plain", "none"
KERNELS = (OK, PLAIN, NONE)  # from best to worst
# Share of the logits' size by which rounding may move them: of the activations, and for quantised types to 8 bits.
TOLERANCE, QUANTISED_TOLERANCE = 0.03, 0.08
# Of matrices whose rows are one block of a quantised type, AMX makes nonsense in decodes of 32, 64, … tokens. No model
# in use has rows so short; those of tests do.
ONE_BLOCK = 32
FLOATS = frozenset({"F32", "F16", "BF16"})
PATIENCE = 60.0  # seconds for the process to start, and again for each decode
MAX_BYTES = 2**16
REMEDY = "build a wheel with `corella-edge wheel --out DIR`, then `pip install --force-reinstall --no-deps` it"
# In the environment of a process that llama.cpp may end: the process that started it reports by what.
EXPENDABLE = {"CORELLA_EDGE_EXPENDABLE": "1"}
# No debugger on itself; no threads of numpy for so little.
_ENVIRONMENT = EXPENDABLE | {"GGML_NO_BACKTRACE": "1"} | dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)  # fmt: skip
Step = tuple[str, bool]  # type, with extra buffer types


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """Of one decode: how far it was from plain arithmetic (see `trial.error`), or why there is nothing to compare.

    `lasting`: it would be the same next time.
    """

    error: float = nan
    why: str = ""
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be used.

    Attributes:
        kernels: "ok": all; "plain": those without extra buffer types; "none": llama.cpp does not compute here.
        why: what was found, for people; empty if all is well.
        variant: of the library that computes, see `build.variant`; empty if it does not even load.
        lasting: whether to keep it.
    """

    kernels: str
    why: str = ""
    variant: str = ""
    lasting: bool = True

    @property
    def sentence(self) -> str:
        """What a person should know, and what to do; empty if all is well."""
        if self.kernels == PLAIN:
            return f"llama.cpp's faster kernels (AMX, repacked weights) are left out: {self.why}; {REMEDY}"
        return f"the installed llama.cpp does not compute here: {self.why}; {REMEDY}" if self.kernels == NONE else ""


def decide(kind: str, plain: TrialOutcome, extra: TrialOutcome) -> Verdict:
    """The verdict on matrices of a type, from a decode without and one with extra buffer types.

    A matrix whose sizes do not fit those goes to the plain kernels, so that nothing works without these.
    """
    lasting = plain.lasting and extra.lasting
    for kernels, outcome in ((NONE, plain), (PLAIN, extra)):
        if why := _fault(kind, outcome):
            return Verdict(kernels, f"{kind}: {why}", lasting=lasting)
    return Verdict(OK, lasting=lasting)


def _fault(kind: str, outcome: TrialOutcome) -> str:
    most = TOLERANCE if kind in FLOATS else QUANTISED_TOLERANCE
    if outcome.why or outcome.error <= most:
        return outcome.why
    if not isfinite(outcome.error):
        return "its numbers are NaN or infinite"
    return f"its numbers are wrong by {outcome.error:.0%}"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a file whose matrices are of several types; "ok" of none."""
    return max(verdicts, key=lambda verdict: KERNELS.index(verdict.kernels), default=Verdict(OK))


def judge_file(path: Path) -> Verdict:
    """The verdict on a GGUF.

    Raises:
        BundleError: see `matrices_in`. MissingExtraError: llama.cpp is not installed.
    """
    return judge(sorted(matrices_in(path)[0]))


def may_use_extra(path: Path, verdict: Verdict) -> bool:
    """Whether a GGUF's matrices may go to extra buffer types: not by the verdict alone, see `ONE_BLOCK`."""
    return verdict.kernels == OK and matrices_in(path)[1] > ONE_BLOCK


def judge(kinds: Sequence[str]) -> Verdict:
    """The worst verdict on some types, by what is kept or by a test now. Raises MissingExtraError."""
    return worst(judge_each(kinds).values())


def judge_each(kinds: Sequence[str], afresh: bool = False) -> Mapping[str, Verdict]:
    """Type → verdict. `afresh`: nothing kept is believed. Raises MissingExtraError."""
    where = surroundings()
    known = {} if afresh else {kind: found for kind in kinds if (found := _recall(where, kind))}
    missing = [kind for kind in kinds if kind not in known]
    tested = test(missing) if missing else {}
    for kind, verdict in tested.items():
        _remember(where, kind, verdict)
    return known | tested


def matrix_types(file_type: str) -> list[str]:
    """The type that most matrices of a file type have ("Q4_K_M": Q4_K); empty for one that is not known."""
    known = [kind for kind in TYPES.values() if f"{file_type}_".startswith(f"{kind}_")]
    return [max(known, key=len)] if known else []


def require(kinds: Sequence[str]) -> None:
    """Raises ComputeError, which says why, if llama.cpp does not compute with one of the types. MissingExtraError."""
    verdict = judge(kinds)
    if verdict.kernels == NONE:
        raise ComputeError(verdict.sentence)


def check_loads() -> None:
    """Raises ComputeError if llama.cpp would end this process when it is loaded. MissingExtraError.

    Any self-test that got as far as that tells; if there was none, one is made.
    """
    if os.environ.keys() >= EXPENDABLE.keys():
        return
    where = surroundings()
    if any(known == where and verdict.variant for (known, _), verdict in _seen.items()):
        return
    verdict = judge(["F16"])
    if verdict.kernels == NONE and verdict.lasting and not verdict.variant:
        raise ComputeError(verdict.sentence)


def surroundings() -> str:
    """All that a verdict depends on apart from the type, as JSON. Raises MissingExtraError."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("GGML_")}
    return json.dumps({
        "build": build_id(), "cpu": cpu_model(), "flags": _digest(sorted(cpu_flags())), "kernel": platform.release(),
        "variables": variables,
    }, sort_keys=True)  # fmt: skip


def build_id() -> str:
    """Release of llama-cpp-python and a digest of its libraries' names, sizes and times. Raises MissingExtraError."""
    return _build(lambda path, entry: entry.st_mtime_ns)


def build_contents() -> str:
    """The same wherever the same wheel is installed: samples of the libraries' contents in place of their times.

    Enough to follow a plan. A verdict rests on `build_id`, which no change of a file escapes. Raises MissingExtraError.
    """
    return _build(lambda path, entry: _sampled(path, entry.st_size))


def _build(mark: Callable[[Path, os.stat_result], Any]) -> str:
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise MissingExtraError("asking the LLM", "llm")
    named = os.environ.get("LLAMA_CPP_LIB_PATH")
    folder = Path(spec.origin).parent / "lib" if named is None else Path(named)
    entries = [(path, path.stat()) for path in sorted(folder.glob("*.so*")) if path.is_file()]
    files = [[path.name, entry.st_size, mark(path, entry)] for path, entry in entries]
    try:
        release = version("llama-cpp-python")
    except PackageNotFoundError:
        release = "unknown"
    return f"{release} {_digest(files)}"


def _sampled(path: Path, size: int) -> str:
    """A digest of 16 pages spread over a file: to read all of 26 MB would slow every start on a small box."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for part in range(16):
            file.seek(size * part // 16)
            found.update(file.read(4096))
    return found.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


_seen: dict[tuple[str, str], Verdict] = {}  # by this process: an unwritable state folder costs one test, not many


def _file(where: str, kind: str) -> Path:
    return state_folder() / "llama.cpp" / f"{_digest([where, kind])}.json"


def _recall(where: str, kind: str) -> Verdict | None:
    if (where, kind) not in _seen and (found := _read(where, kind)):
        _seen[where, kind] = found
    return _seen.get((where, kind))


def _read(where: str, kind: str) -> Verdict | None:
    """What is kept; None if nothing is, or nothing that this release wrote."""
    try:
        path = _file(where, kind)
        with path.open("rb") as file:
            data = decode(file.read(MAX_BYTES))
        expected = _to_json(where, kind, Verdict(data["kernels"], data["why"], data["variant"]))
    except (OSError, InputError, KeyError, TypeError, ValueError):
        return None
    good = data == expected and data["kernels"] in KERNELS
    return Verdict(data["kernels"], data["why"], data["variant"]) if good else None


def _to_json(where: str, kind: str, verdict: Verdict) -> dict[str, Any]:
    told = {"kernels": verdict.kernels, "why": verdict.why, "variant": verdict.variant}
    return {"format_version": FORMAT_VERSION, "type": kind, **told, **json.loads(where)}


def _remember(where: str, kind: str, verdict: Verdict) -> None:
    """Here, and for the next process if the folder can be written; not what may be otherwise next time."""
    if not verdict.lasting:
        return
    _seen[where, kind] = verdict
    try:
        path = _file(where, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(_to_json(where, kind, verdict), indent=1) + "\n").encode())
    except (OSError, InputError):
        return  # tested again next time


def test(kinds: Sequence[str]) -> dict[str, Verdict]:
    """Type → verdict, by decoding; one process for all unless one ends it."""
    steps: list[Step] = [(kind, extra) for kind in kinds for extra in (False, True)]
    found: dict[Step, TrialOutcome] = {}
    variant = ""
    while left := [step for step in steps if step not in found]:
        variant = _advance(left, found) or variant
    return {kind: replace(decide(kind, found[kind, False], found[kind, True]), variant=variant) for kind in kinds}


def _advance(steps: Sequence[Step], found: dict[Step, TrialOutcome]) -> str:
    """Run one process through `steps` until it ends; at least one outcome is added. Its variant, if it told."""
    said, ended = _run(steps)
    # Other libraries may have printed something as well.
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    begun = [(kind, extra) for kind, extra in (line["begin"] for line in lines if "begin" in line)]
    errors = [float(line["error"]) for line in lines if "error" in line]
    found |= {step: TrialOutcome(error) for step, error in zip(begun, errors, strict=False)}
    if ended is not None:
        # Whatever it was at; before the first, nothing will come of any.
        found |= dict.fromkeys(begun[len(errors) :] or ([] if begun else steps), ended)
    elif len(errors) < len(steps):
        found |= {step: TrialOutcome(why="the self-test stopped", lasting=False) for step in steps if step not in found}
    return next((str(line["variant"]) for line in lines if "variant" in line), "")


def _run(steps: Sequence[Step]) -> tuple[str, TrialOutcome | None]:
    """What the process said, in whole lines, and what ended it; None if nothing did."""
    try:
        process = subprocess.Popen(
            _command(steps), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", process_group=0, env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip
    except OSError as error:
        return "", TrialOutcome(why=f"its self-test cannot be started ({error.strerror})", lasting=False)
    limit = PATIENCE * (1 + len(steps))
    with process:
        try:
            said, complained = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            said, complained = process.communicate()
            return _whole(said), TrialOutcome(why=f"no answer within {limit:g} s", lasting=False)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode == 0:
        return _whole(said), None
    if process.returncode == -signal.SIGALRM:
        return _whole(said), TrialOutcome(why=f"no answer within {PATIENCE:g} s", lasting=False)
    lasting = endings.crashed(process.returncode)
    last = "" if lasting else next(iter(reversed(complained.strip().splitlines())), "")[:200]
    why = endings.words(process.returncode) + (f", {last}" if last else "")
    return _whole(said), TrialOutcome(why=why, lasting=lasting)


def _command(steps: Sequence[Step]) -> list[str]:
    # -P: no module of the working directory comes before the installed ones.
    return [sys.executable, "-P", "-m", "corella_edge_runtime.llm.llama.selftest.trial", json.dumps(steps)]


def _whole(said: str) -> str:
    """Without a last line that has no end."""
    return said[: said.rfind("\n") + 1]
