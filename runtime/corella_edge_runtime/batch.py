"""Score a file of requests: all lines checked first, the answers appear complete, an interrupted run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from corella_edge import atomic
from corella_edge.bundle import artefact as bundle
from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import read_lines
from corella_edge.request import Request
from corella_edge.request_message import parse_request
from corella_edge.routing.forms import read_threshold
from corella_edge.scores import Scores, answer_json
from corella_edge.selection import EVERYTHING

if TYPE_CHECKING:
    from corella_edge_runtime.decisions import DecisionLog
    from corella_edge_runtime.engine import Engine


@dataclass(slots=True)
class Tally:
    """What has been scored so far, of `total` requests; `kept` were there from an interrupted run.

    strict: some of the requests are, or select what is ranked, or ask adapters, so that `check_all` looks at them.
    noted: requests about which there is something to tell; `note`: the first such sentence.
    """

    total: int = 0
    strict: bool = False
    kept: int = 0
    requests: int = 0
    candidates: int = 0
    routed: int = 0
    unanswered: int = 0
    seconds: float = 0.0
    noted: int = 0
    note: str = ""
    unknown: Counter[str] = field(default_factory=Counter)  # candidates with an unseen value, by field

    def add(self, request: Request, scores: Scores) -> None:
        self.requests += 1
        self.candidates += len(scores.items)
        self.routed += int(scores.routed.sum())
        self.unknown.update(chain.from_iterable(scores.unknown))
        self.unanswered += sum(map(bool, scores.reason)) - int(scores.routed.sum())
        if notes := (*request.notes, *scores.notes):
            self.noted += 1
            self.note = self.note or notes[0]

    def include(self, part: Tally) -> None:
        """What another process has scored of these requests."""
        for name in ("kept", "requests", "candidates", "routed", "unanswered", "noted"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.unknown += part.unknown
        self.note = self.note or part.note

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"unknown": dict(self.unknown)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tally:
        """What `to_json` gave."""
        return cls(**{**data, "unknown": Counter(data["unknown"])})


Progress = Callable[[Tally], None]


def check_requests(source: TextFile) -> Tally:
    """Of the requests that `source` holds, each of them a valid one; none is scored.

    Raises:
        InputError: naming the file and the first bad line.
    """
    tally = Tally()
    for request in read_lines(source, parse_checked):
        tally.total += 1
        tally.strict |= request.strict or request.selection is not EVERYTHING or request.adapters is not None
    return tally


def check_all(check: Callable[[Request], None], source: TextFile) -> None:
    """What only a bundle can tell of the requests in `source`, before the first is scored.

    Raises:
        InputError: naming the file and the first line that `check` refuses.
    """
    for _ in read_lines(source, lambda value: check(parse_request(value))):
        pass


def parse_checked(value: Any) -> Request:
    """A request whose own threshold, if any, is a possible one."""
    request = parse_request(value)
    if request.threshold is not None:
        read_threshold(request.threshold)
    return request


def check_out(out: Path, source: TextFile, force: bool) -> None:
    """Refuse an `out` that cannot or must not be written, before any work. Raises InputError."""
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise InputError(f"--out {out}: exists and is not a file; name another one")
    if out.exists() and source.path and source.path.exists() and out.samefile(source.path):
        raise InputError(f"--out {out}: is the input itself; name another one")
    if out.exists() and not force:
        raise InputError(f"--out {out}: exists; remove it, name another one, or pass --force")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")


def identity(root: Path, source: TextFile, options: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run must have in common with this one to be continued."""
    return {"bundle": bundle.sha256(root / bundle.MANIFEST), "input": source.sha256(), **options}


def score_stream(
    ranker: Engine, source: TextFile, out: BinaryIO, tally: Tally, progress: Progress, log: DecisionLog | None = None
) -> None:
    """Write one answer a line for the requests after the first `tally.kept`, each as soon as it is known."""
    started = time.perf_counter()
    for request in islice(read_lines(source, parse_checked), tally.kept, None):
        scores = ranker.rank(request)
        out.write(line(request, scores, ranker.name))
        out.flush()
        if log is not None:
            log.put(request, scores, ranker.name, wait=True, know=ranker.gate_inputs)
        tally.add(request, scores)
        tally.seconds = time.perf_counter() - started
        progress(tally)


def line(request: Request, scores: Scores, name: str) -> bytes:
    """One answer as strict JSON and a line feed."""
    return answer_json(request, scores, name) + b"\n"


def score_file(
    ranker: Engine, source: TextFile, out: Path, tally: Tally, same: dict[str, Any], progress: Progress,
    log: DecisionLog | None = None,
) -> None:  # fmt: skip
    """Score into `OUT.partial`, continuing what an interrupted run with the same `identity` left, then rename."""
    try:
        with _partial(out, same) as file:
            tally.kept = _complete_lines(file)
            score_stream(ranker, source, file, tally, progress, log)
            atomic.publish_file(_beside(out, ".partial"), out)
            _beside(out, ".partial.json").unlink()
    except OSError as error:
        raise InputError(f"--out {out}: writing failed: {error.strerror or error}") from error


@contextmanager
def _partial(out: Path, same: dict[str, Any]) -> Iterator[BinaryIO]:
    """The unfinished file, locked; emptied unless it was begun by the same command."""
    label = _beside(out, ".partial.json")
    with _beside(out, ".partial").open("a+b") as file:
        _lock(file, out)
        if _label(label) != same:
            file.truncate(0)
            atomic.write_file(label, json.dumps(same).encode())
        yield file


def _lock(file: BinaryIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file locked must still be the one at that name: its writer may just have renamed it.
        if os.fstat(file.fileno()).st_ino != _beside(out, ".partial").stat().st_ino:
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        raise InputError(f"--out {out}: another run is writing it; wait for it or name another one") from None


def _label(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _complete_lines(file: BinaryIO) -> int:
    """Cut a torn last line off; leave the file's place at its end and return the number of lines."""
    file.seek(0)
    count = end = 0
    for text in file:
        if text.endswith(b"\n"):
            count, end = count + 1, end + len(text)
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return count


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(out.name + ending)
