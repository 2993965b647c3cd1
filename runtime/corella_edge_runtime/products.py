"""A whole catalogue's scores as one matrix product, of a CRM that multiplies a user's row with each item's vector.

`crm.items.onnx` makes the vectors once for a catalogue; of each request `crm.product.onnx` makes the user's row, from
the same states of the events as `crm.onnx`, and multiplies it with all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from corella_edge.bundle.artefact import product_files
from corella_edge.errors import BundleError
from corella_edge.features.derived import Ints
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import ATTRIBUTES, Feed, Field, Schema
from corella_edge.request import Candidates
from corella_edge_runtime.crm import MAX_BATCH, STATES, Crm, Graph, extreme, sigmoid

VECTORS = "vectors"  # of the items, a column each
FEW = 8  # of so many items that one is ranked or fewer, these are few: not all vectors are multiplied for them
Logits = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]  # [k, items]


def item_fields(schema: Schema) -> list[Field]:
    """The inputs of the items' side in which no user has a part."""
    return schema.of(*ATTRIBUTES, "vector", side="item")


def user_fields(schema: Schema, read: Collection[str]) -> list[Field]:
    """The inputs of the user's side, but for those of the events, which are `read` by a graph of their own."""
    return [field for field in schema.fields if field.side == "user" and field.name not in read]


class Products:
    """The two graphs beside a CRM, and the vectors of the items of one catalogue. Threads may share one.

    The vectors are float32 [k, items], made when something first asks for them.
    """

    def __init__(self, crm: Crm, encoder: FeatureEncoder) -> None:
        """Raises BundleError for a graph that cannot be loaded or does not fit the schema, the CRM or the other."""
        self._crm, self._encoder = crm, encoder
        schema, (items, product) = encoder.schema, product_files(crm.path.name)
        self._items: Graph | None = Graph(crm.path.with_name(items), crm.threads)
        width = _width(self._items, schema)
        self._product = Graph(crm.path.with_name(product), crm.threads)
        _check_product(self._product, schema, crm, width)
        self._vectors: Vectors = np.empty((width, 0), np.float32)
        self._lock = threading.Lock()

    @classmethod
    def beside(cls, crm: Crm, encoder: FeatureEncoder) -> Products | None:
        """None where the bundle has no such graphs for this form of its CRM. Raises BundleError."""
        there = [crm.path.with_name(name).exists() for name in product_files(crm.path.name)]
        return cls(crm, encoder) if all(there) else None

    def serves(self, candidates: Candidates) -> Ints | None:
        """The catalogue rows of candidates that are to be scored here: items of the catalogue as the catalogue has
        them, by whoever knows their rows; but no few for whom all vectors would first be made. None of others, which
        `crm.onnx` scores."""
        rows = None if candidates.own else candidates.rows
        if rows is None or rows.max(initial=-1) >= self._encoder.unknown_row:
            return None
        return None if self._items is not None and len(rows) <= MAX_BATCH and self._few(rows) else rows

    def probability(self, feed: Feed, rows: Ints) -> npt.NDArray[np.float64]:
        """P(label = 1), float64 [n], of catalogue rows int64 [n], for the arrays of `FeatureEncoder.encode_beside`."""
        return sigmoid(self.logits(feed, rows))

    def logits(self, feed: Feed, rows: Ints) -> Logits:
        """float32 [n]; arguments as of `probability`."""
        vectors, given = self.vectors, self._crm.with_states(feed)
        if self._few(rows):
            return self._multiplied(given, vectors.take(rows, 1))
        return self._multiplied(given, vectors).take(rows)

    def _few(self, rows: Ints) -> bool:
        return len(rows) * FEW < len(self._encoder.catalog)

    def make(self) -> None:
        """The vectors, before something asks for them."""
        _ = self.vectors

    @property
    def vectors(self) -> Vectors:
        """Of all items of the catalogue, float32 [k, items]. Made once; the graph that makes them is closed then."""
        with self._lock:
            if self._items is not None:
                self._vectors = self._made(self._items)
                self._items = None
        return self._vectors

    def _made(self, graph: Graph) -> Vectors:
        items = len(self._encoder.catalog)
        found = np.empty((len(self._vectors), items), np.float32)
        for start in range(0, items, MAX_BATCH):
            rows = np.arange(start, min(start + MAX_BATCH, items))
            found[:, rows[0] : rows[-1] + 1] = graph.run(graph.outputs, self._encoder.encode_items(rows), None)[0]
        return found

    def _multiplied(self, given: Feed, vectors: Vectors) -> Logits:
        found: Logits = self._product.run(self._product.outputs, {**given, VECTORS: vectors}, None)[0]
        return found


def _width(graph: Graph, schema: Schema) -> int:
    """How many numbers a vector has, by the graph that makes them, tried with the last rows of all tables."""
    feed = {field.name: extreme(field, schema) for field in item_fields(schema)}
    graph.check(feed, schema, schema.vocabularies)
    found = _only(graph, graph.tried(feed))
    if found.ndim != 2 or found.shape[1] != 2:
        raise BundleError(f"{graph.name}: gives {list(found.shape)} for two items, expected a column of each")
    return int(found.shape[0])


def _check_product(graph: Graph, schema: Schema, crm: Crm, width: int) -> None:
    read = crm.reader.names if crm.reader else ()
    feed = {field.name: extreme(field, schema) for field in user_fields(schema, read)}
    if crm.reader:
        feed[STATES] = crm.reader.nothing
    feed[VECTORS] = np.zeros((width, 2), np.float32)
    graph.check(feed, schema, schema.vocabularies)
    found = _only(graph, graph.tried(feed))
    if found.shape != (2,):
        raise BundleError(f"{graph.name}: gives {list(found.shape)} for two vectors, expected two logits")


def _only(graph: Graph, outputs: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The one output of finite numbers. Raises BundleError."""
    if len(outputs) != 1 or outputs[0].dtype != np.float32 or not np.isfinite(outputs[0]).all():
        raise BundleError(f"{graph.name}: does not give one array of finite numbers in float32")
    return outputs[0]
