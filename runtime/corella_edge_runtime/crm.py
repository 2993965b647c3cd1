"""The CRM: one ONNX Runtime session. The only file that knows onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError, MissingExtraError
from corella_edge.features.schema import Feed, Field, Schema

try:
    # Loaded without it, it writes an id of this machine and events for Microsoft into the home folder.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort
except ImportError as error:
    raise MissingExtraError("scoring", "cpu") from error

# Candidates a run: bounds the memory arena, which grows to the largest batch and never shrinks.
MAX_BATCH = 1024
VOCAB_KEY = "corella.vocab."
_MOST, _ONE = np.array(700.0), np.array(1.0)  # numpy takes them faster than numbers


class Crm:
    """`crm.onnx` of a bundle: input arrays → probabilities. Calls from several threads are safe."""

    def __init__(self, path: Path, schema: Schema, threads: int = 1) -> None:
        try:
            self._session: Any = ort.InferenceSession(_openable(path), _options(threads), providers=_providers())
        except Exception as error:  # noqa: BLE001 - onnxruntime raises its own, undocumented kinds
            raise BundleError(f"{path.name}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        self.provider: str = self._session.get_providers()[0]
        self.warning = _not_taken(_providers()[0], self.provider)
        self._item_inputs = {f.name for f in schema.fields if f.side == "item"}
        self._check(path.name, schema)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._try(path.name, schema)
        # The wrapper looks at the names again, which `_check` has done; what it does for a GPU that fails is wanted.
        on_cpu = self.provider == "CPUExecutionProvider"
        self._run = getattr(self._session, "_sess", self._session).run if on_cpu else self._session.run
        self._counted = next(iter(self._item_inputs))  # the graph could not give two logits without one

    def probability(self, feed: Feed) -> npt.NDArray[np.float64]:
        """P(label = 1), float64 [n], for the arrays of `FeatureEncoder.encode`."""
        n = len(feed[self._counted])
        if n == 0:
            return np.zeros(0)
        if n <= MAX_BATCH:
            return sigmoid(self.logits(feed))
        return sigmoid(np.concatenate([self._part(feed, start) for start in range(0, n, MAX_BATCH)]))

    def _part(self, feed: Feed, start: int) -> npt.NDArray[np.float32]:
        """Logits of the candidates from `start` on, as many as a run takes."""
        part = slice(start, start + MAX_BATCH)
        return self.logits({k: v[part] if k in self._item_inputs else v for k, v in feed.items()})

    def logits(self, feed: Feed) -> npt.NDArray[np.float32]:
        """float32 [n], one run of the session, the floor under any latency. At most `MAX_BATCH` candidates."""
        result: npt.NDArray[np.float32] = self._run(self._outputs, feed, None)[0]
        return result

    def _check(self, name: str, schema: Schema) -> None:
        """The graph's inputs and table sizes must be the schema's: no index may leave its table."""
        inputs = {item.name for item in self._session.get_inputs()}
        wanted = {item.name for item in schema.fields}
        if inputs != wanted:
            raise BundleError(f"{name}: its inputs differ from schema.json in {sorted(inputs ^ wanted)}")
        recorded = self._session.get_modelmeta().custom_metadata_map
        for vocab in schema.vocabularies.values():
            if recorded.get(VOCAB_KEY + vocab.name) != str(len(vocab)):
                raise BundleError(f"{name}: its table for {vocab.name!r} does not fit {vocab.file}")

    def _try(self, name: str, schema: Schema) -> None:
        """One run with the last row of every table, for two candidates: what does not fit is told now, to no user."""
        feed = {field.name: _extreme(field, schema) for field in schema.fields}
        try:
            outputs: list[Any] = self._session.run(None, feed)
        except Exception as error:  # noqa: BLE001 - as above
            raise BundleError(
                f"{name}: ONNX Runtime cannot run it on schema.json's fields ({_first_line(error)})"
            ) from None
        forms = [f"{getattr(found, 'dtype', type(found).__name__)} {np.shape(found)}" for found in outputs]
        if forms != ["float32 (2,)"] or not np.isfinite(outputs[0]).all():
            raise BundleError(
                f"{name}: gives {', '.join(forms)} for two candidates, expected two finite logits in float32"
            )


def _extreme(field: Field, schema: Schema) -> npt.NDArray[Any]:
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
