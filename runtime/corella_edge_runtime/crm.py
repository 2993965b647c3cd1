"""The CRM: a session of ONNX Runtime, and one more where its users' events are read by a graph of their own.

The only file that knows onnxruntime.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.bundle.artefact import events_file
from corella_edge.errors import BundleError, MissingExtraError
from corella_edge.features.schema import EVENTS, Feed, Field, Schema
from corella_edge_runtime.read_events import EventReader, States

try:
    # Loaded without it, it writes an id of this machine and events for Microsoft into the home folder.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort
except ImportError as error:
    raise MissingExtraError("scoring", "cpu") from error

# Candidates a run: bounds the memory arena, which grows to the largest batch and never shrinks.
MAX_BATCH = 1024
CRM_MEMORY_MIB = 64.0  # for what was read of users' events
VOCAB_KEY = "corella.vocab."
PAST, STATES = "past", "states"  # what was read of events: given to the graph that reads more, and to the CRM's
_MOST, _ONE = np.array(700.0), np.array(1.0)  # numpy takes them faster than numbers


class Crm:
    """`crm.onnx` of a bundle: input arrays → probabilities. Calls from several threads are safe."""

    def __init__(self, path: Path, schema: Schema, threads: int = 1, memory: int = int(CRM_MEMORY_MIB * 2**20)) -> None:
        """`memory`: bytes for what was read of users' events, where the bundle has a graph that reads them.

        Raises:
            BundleError: a graph cannot be loaded or does not fit the schema, or one of the two is missing.
        """
        self.path, self.threads = path, threads
        graph = Graph(path, threads)
        self.provider, self.warning = graph.provider, graph.warning
        self._item_inputs = {f.name for f in schema.fields if f.side == "item"}
        self.reader = _reader(graph, path, schema, threads, memory)
        _check_scorer(graph, schema, self.reader)
        self._session, self._run, self._outputs = graph.session, graph.run, graph.outputs
        self._counted = next(iter(self._item_inputs))  # the graph could not give two logits without one

    def probability(self, feed: Feed) -> npt.NDArray[np.float64]:
        """P(label = 1), float64 [n], for the arrays of `FeatureEncoder.encode`."""
        return sigmoid(self.many_logits(feed)) if len(feed[self._counted]) else np.zeros(0)

    def many_logits(self, feed: Feed) -> npt.NDArray[np.float32]:
        """float32 [n], of any number of candidates above 0, in runs of at most `MAX_BATCH`."""
        n = len(feed[self._counted])
        if n <= MAX_BATCH:
            return self.logits(feed)
        feed = self.with_states(feed)
        return np.concatenate([self._part(feed, start) for start in range(0, n, MAX_BATCH)])

    def logits(self, feed: Feed) -> npt.NDArray[np.float32]:
        """float32 [n], one run of the session, the floor under any latency. At most `MAX_BATCH` candidates."""
        return self._scored(self.with_states(feed))

    def stats(self) -> dict[str, float]:
        """Counters of what is kept of users' events; empty where nothing is."""
        return self.reader.stats() if self.reader else {}

    def forget(self) -> None:
        """Drop what is kept of users' events."""
        if self.reader:
            self.reader.kept.clear()

    def with_states(self, feed: Feed) -> Feed:
        """A feed with what was read of the events in their place."""
        if self.reader is None:
            return feed
        found = {name: values for name, values in feed.items() if name not in self.reader.names}
        found[STATES] = self.reader.states(feed)
        return found

    def _part(self, feed: Feed, start: int) -> npt.NDArray[np.float32]:
        """Logits of the candidates from `start` on, as many as a run takes."""
        part = slice(start, start + MAX_BATCH)
        return self._scored({k: v[part] if k in self._item_inputs else v for k, v in feed.items()})

    def _scored(self, feed: Feed) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = self._run(self._outputs, feed, None)[0]
        return result


class Graph:
    """An opened file.

    Attributes:
        run: of the session, with names of outputs, inputs by name, None → outputs.
        shapes: input → its shape, a name where an axis is free.
        tables: vocabulary → rows of its table, as the file says.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.name = path.name
        try:
            self.session: Any = ort.InferenceSession(_openable(path), _options(threads), providers=_providers())
        except Exception as error:  # noqa: BLE001 - onnxruntime raises its own, undocumented kinds
            raise BundleError(f"{path.name}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        self.provider: str = self.session.get_providers()[0]
        self.warning = _not_taken(_providers()[0], self.provider)
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.shapes: dict[str, list[Any]] = {item.name: item.shape for item in self.session.get_inputs()}
        self.tables: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        # The wrapper looks at the names again, which is done here; what it does for a GPU that fails is wanted.
        on_cpu = self.provider == "CPUExecutionProvider"
        self.run: Any = getattr(self.session, "_sess", self.session).run if on_cpu else self.session.run

    def check(self, wanted: Collection[str], schema: Schema, vocabularies: Iterable[str]) -> None:
        """The graph's inputs and table sizes must be the schema's: no index may leave its table."""
        if different := sorted(self.shapes.keys() ^ set(wanted)):
            raise BundleError(f"{self.name}: its inputs differ from schema.json in {different}")
        for name in vocabularies:
            vocab = schema.vocabularies[name]
            if self.tables.get(VOCAB_KEY + name) != str(len(vocab)):
                raise BundleError(f"{self.name}: its table for {name!r} does not fit {vocab.file}")

    def tried(self, feed: Feed) -> list[Any]:
        """One run before any request: what does not fit is told now, to no user."""
        try:
            found: list[Any] = self.session.run(None, feed)
        except Exception as error:  # noqa: BLE001 - as above
            raise BundleError(
                f"{self.name}: ONNX Runtime cannot run it on schema.json's fields ({_first_line(error)})"
            ) from None
        return found


def _reader(scorer: Graph, path: Path, schema: Schema, threads: int, memory: int) -> EventReader | None:
    """What reads the events for a graph that takes states; None for one that takes the events themselves."""
    file = path.with_name(events_file(path.name))
    if not file.exists():
        if STATES in scorer.shapes:
            raise BundleError(f"{path.name}: takes the states of events, but {file.name}, which reads them, is missing")
        return None
    if STATES not in scorer.shapes:
        raise BundleError(f"{file.name}: stands beside {path.name}, which takes no states of events")
    graph = Graph(file, threads)
    shape = _states_shape(graph, PAST)
    if shape != _states_shape(scorer, STATES):
        raise BundleError(f"{file.name}: its states are not those that {path.name} takes")
    names = [name for name in graph.shapes if name != PAST]
    fields = _event_fields(file.name, names, schema)
    graph.check([*names, PAST], schema, {field.vocab for field in fields if field.vocab})
    reader = EventReader(_read_by(graph), schema, names, shape, memory)
    _try_reader(graph, fields, schema, shape)
    return reader


def _states_shape(graph: Graph, name: str) -> tuple[int, int]:
    """(layers, d) of an input [layers, 2, e, d]."""
    found = graph.shapes.get(name, [])
    if len(found) != 4 or found[1] != 2 or not all(type(found[i]) is int and found[i] > 0 for i in (0, 3)):
        raise BundleError(f"{graph.name}: its input {name!r} is {found}, expected [layers, 2, events, width]")
    return found[0], found[3]


def _event_fields(file: str, names: Sequence[str], schema: Schema) -> list[Field]:
    """The fields that a graph reads: the user's, one number of slots for all, and codes among them."""
    fields = [field for field in schema.fields if field.name in names and field.kind in EVENTS]
    if len(fields) != len(names) or len({field.length for field in fields}) != 1:
        raise BundleError(f"{file}: its inputs {sorted(names)} are not sequences of one length in schema.json")
    if not any(field.kind == "sequence" for field in fields):
        raise BundleError(f"{file}: has no sequence of codes among its inputs")
    return fields


def _read_by(graph: Graph) -> Callable[[Feed, States], States]:
    def read(events: Feed, past: States) -> States:
        found: States = graph.run(graph.outputs, {**events, PAST: past}, None)[0]
        return found

    return read


def _try_reader(graph: Graph, fields: Sequence[Field], schema: Schema, shape: tuple[int, int]) -> None:
    """Two events with the last row of every table, after one."""
    layers, width = shape
    past = np.zeros((layers, 2, 1, width), np.float32)
    events = {field.name: extreme(field, schema)[:, :1].repeat(2, axis=1) for field in fields}
    found = graph.tried({**events, PAST: past})
    wanted = (layers, 2, 3, width)
    if len(found) != 1 or found[0].dtype != np.float32 or found[0].shape != wanted or not np.isfinite(found[0]).all():
        raise BundleError(f"{graph.name}: does not give finite states {list(wanted)} in float32 for three events")


def _check_scorer(graph: Graph, schema: Schema, reader: EventReader | None) -> None:
    """The other fields and, where events are read elsewhere, their states; two candidates with the last rows."""
    fields = [field for field in schema.fields if reader is None or field.name not in reader.names]
    feed = {field.name: extreme(field, schema) for field in fields}
    if reader is not None:
        feed[STATES] = reader.nothing
    graph.check(feed, schema, schema.vocabularies)
    outputs = graph.tried(feed)
    forms = [f"{getattr(found, 'dtype', type(found).__name__)} {np.shape(found)}" for found in outputs]
    if forms != ["float32 (2,)"] or not np.isfinite(outputs[0]).all():
        raise BundleError(
            f"{graph.name}: gives {', '.join(forms)} for two candidates, expected two finite logits in float32"
        )


def extreme(field: Field, schema: Schema) -> npt.NDArray[Any]:
    """The highest indices, or zeros, for the user or for two candidates."""
    shape = (1 if field.side == "user" else 2, *field.shape)
    if field.vocab:
        return np.full(shape, len(schema.vocabularies[field.vocab]) - 1, dtype=np.int64)
    return np.zeros(shape, dtype=np.float32)


def sigmoid(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), float64, without overflow."""
    # Beyond it exp would overflow; there, 1 + exp(-x) has long been exp(-x).
    result: npt.NDArray[np.float64] = _ONE / (np.exp(np.minimum(-logits, _MOST)) + _ONE)
    return result


def _openable(path: Path) -> str | bytes:
    """The path, or the file's bytes where ONNX Runtime, which wants UTF-8, cannot be told the path."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores from llama.cpp.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers() -> list[str]:
    """CUDA where the installed build has it, else the CPU."""
    return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]


def _not_taken(wanted: str, taken: str) -> str:
    """A sentence where ONNX Runtime silently took another provider than the first it was asked for, else ""."""
    return "" if wanted == taken else f"the CRM runs on {taken}: ONNX Runtime has {wanted} but cannot start it"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
