"""What was exported against what was trained: the runtime opens the files, torch gives the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from threading import Event as Signal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from corella_edge.adapters import Weights
from corella_edge.bundle.artefact import product_files
from corella_edge.errors import ExportError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Candidate, Candidates, Event, History, Request, User
from corella_edge_export.bundling.passes import until
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.memory import freed_kept
from corella_edge_export.training.tasks.crm import tensors
from corella_edge_export.training.tasks.llm import LlmReader, predict
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.messages import Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.products import Products
from corella_edge_runtime.reference import ReferenceCheck, compare

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.scorer import YesNoScorer

CRM_TOLERANCE = 1e-5
TEXT_TOLERANCE = 1e-3  # of a text vector's length: numbers of float16 may be rounded otherwise
F16_TOLERANCE = 2e-3
BATCHED_TOLERANCE = 5e-3
BATCHES = (1, 2, 7, 64)
HISTORIES = ("own", "none", "one", "full")
SPREAD = 4096  # items of a catalogue
Floats = npt.NDArray[np.float64]


def allowed(least: float, found: float) -> float:
    """The tolerance of a bundle where so great a difference was found at its export: twice that, from `least` to 1."""
    return min(1.0, max(least, 2.0 * found))


def repeat(engine: Engine) -> ReferenceCheck:
    """The bundle's reference rows, scored again. Raises ExportError for the first that differs."""
    found = compare(engine)
    for problem in found.problems:
        raise ExportError(f"the bundle differs from the trained models: {problem}")
    return found


def torch_crm(model: CrmModel, encoder: FeatureEncoder, request: Request) -> Floats:
    """P(label = 1), float64 [n], by torch."""
    feed, _ = encoder.encode(request.user, request.candidates or ())
    with torch.inference_mode():
        return torch.sigmoid(model.eval()(tensors(feed)).double()).numpy()


def check_crm(model: CrmModel, encoder: FeatureEncoder, path: Path, requests: Sequence[Request]) -> float:
    """Greatest difference in probability between torch and ONNX Runtime at batch 1, 2, 7 and 64.

    Every batch also holds an item, and every second one a user, that training has not seen. The histories are those of
    the requests, none, their first event, and as many events as the model looks at. What the runtime has kept of a
    history has its part in it: each is asked twice.

    Raises:
        ExportError: the difference exceeds 1e-5.
    """
    crm = Crm(path, encoder.schema)
    worst = 0.0
    for number, (events, size) in enumerate(product(HISTORIES, BATCHES)):
        request = _mixed(requests, encoder, number, size, events)
        feed, _ = encoder.encode(request.user, request.candidates or ())
        expected = torch_crm(model, encoder, request)
        for _ in range(2):
            worst = float(np.maximum(worst, np.abs(crm.probability(feed) - expected).max()))  # a nan stays
    if not worst <= CRM_TOLERANCE:
        raise ExportError(f"{path.name}: a probability differs from torch by {worst:.2e}, allowed is {CRM_TOLERANCE}")
    return worst


def check_products(model: CrmModel, encoder: FeatureEncoder, path: Path, requests: Sequence[Request]) -> float:
    """Greatest difference in probability between torch and the product by which a catalogue is ranked.

    Of users as of `check_crm`, known and not, with each history, and at most `SPREAD` items, evenly of the catalogue.

    Raises:
        ExportError: the difference exceeds 1e-5.
    """
    products, worst = Products(Crm(path, encoder.schema), encoder), 0.0
    ids, n = encoder.catalog.ids, len(encoder.catalog)
    rows = np.unique(np.linspace(0, n - 1, min(n, SPREAD)).astype(np.int64))
    items = Candidates([ids[row] for row in rows.tolist()], None, rows)
    for number, (events, _) in enumerate(product(HISTORIES, range(2))):
        user = _mixed(requests, encoder, number, 1, events).user
        found = products.probability(encoder.encode_beside(user, items)[0], rows)
        worst = float(np.maximum(worst, np.abs(found - torch_crm(model, encoder, Request(user, items))).max()))
    if not worst <= CRM_TOLERANCE:
        raise ExportError(f"{product_files(path.name)[1]}: a probability differs from torch by {worst:.2e}, "
                          f"allowed is {CRM_TOLERANCE}")  # fmt: skip
    return worst


def _mixed(requests: Sequence[Request], encoder: FeatureEncoder, number: int, size: int, events: str) -> Request:
    user = requests[number % len(requests)].user
    history = _history(user.history, encoder, events)
    unseen = (number + number // len(BATCHES)) % 2
    user = User("no such user" if unseen else user.id, user.features, history)
    items = encoder.catalog.ids
    candidates = [Candidate(items[(number * 97 + i * 31) % len(items)]) for i in range(size - 1)]
    return Request(user, (*candidates, Candidate("no such item")))


def _history(own: History, encoder: FeatureEncoder, events: str) -> History:
    """The history itself, nothing, one event, or as many as count, of which the first is of an unknown item."""
    if events in ("own", "none"):
        return own if events == "own" else History()
    ids, rating = encoder.catalog.ids, own.ratings[-1] if own.ratings else None
    made = [Event("no such item", rating), *(Event(item, rating) for item in ids[: encoder.schema.window - 1])]
    return History.of(made[-1:] if events == "one" else made)


def torch_llm(reader: LlmReader, builder: SequenceBuilder, rows: npt.NDArray[np.int64], split: Any) -> dict[int, float]:
    """Row → P(Yes) by transformers, of the split's given rows."""
    sequences = builder.exact(split, np.unique(split.users[rows]).tolist(), set(rows.tolist()))
    with freed_kept():
        found, probability = predict(reader, sequences, shown=True)
    return dict(zip(found.tolist(), probability.tolist(), strict=True))


def gguf_scores(
    path: Path,
    encoder: PromptEncoder,
    requests: Iterable[Request],
    threads: int,
    whole: bool = False,
    exact: bool = False,
    adapter: Path | None = None,
    total: int | None = None,
    stop: Signal | None = None,
) -> Floats:
    """P(Yes), float64 [n], of one-candidate requests by llama.cpp, with an adapter or none; nan for an item without
    text.

    A terminal shows how far it is; `total`: how many they are, where they have no length. `stop`: set when nobody wants
    the rest.

    `whole` decodes each prompt from its beginning; else a prefix kept from the row before is used again, as in serving.
    `exact` computes attention in float32: what then differs is the file's doing, not the arithmetic's.
    """
    # Here, so that a base model is exported without llama.cpp.
    from corella_edge_runtime.llm.llama.binding import Model
    from corella_edge_runtime.llm.llama.scorer import YesNoScorer

    model = Model(path, adapters={} if adapter is None else {adapter.stem: adapter})
    scorer = YesNoScorer(model, encoder.tokens, LlmSettings(threads=threads), exact=exact)
    try:
        by = tuple((name, 1.0) for name in model.adapters)
        shown = tqdm(requests, total=total, unit="row", leave=False, disable=None)
        return np.asarray([_score(scorer, encoder, request, whole, by) for request in until(stop, shown)])
    finally:
        scorer.close()
        model.close()


def only_candidate(request: Request) -> Candidate:
    """The candidate of a request that has one."""
    assert request.candidates is not None
    return request.candidates[0]


def _score(scorer: YesNoScorer, encoder: PromptEncoder, request: Request, whole: bool, by: Weights) -> float:
    suffix = encoder.suffix(only_candidate(request))
    if suffix is None:
        return math.nan
    if whole:
        scorer.forget()
    prompt = Prompt(tuple(encoder.prefix(request.user)), tuple(suffix))
    return scorer.score(Prompts.of([prompt]).by(by))[0].probability


def check_llm(name: str, found: Floats, expected: Floats, tolerance: float) -> float:
    """Greatest difference in P(Yes).

    Raises:
        ExportError: it exceeds the tolerance.
    """
    both = ~np.isnan(expected)
    lost = int(np.isnan(found[both]).sum())
    if lost:
        raise ExportError(f"{name}: {lost} of {both.sum()} prompts have no score; are they longer than the context?")
    worst = float(np.abs(found - expected)[both].max()) if both.any() else 0.0
    if not worst <= tolerance:
        raise ExportError(f"{name}: P(Yes) differs from transformers by {worst:.2e}, at most {tolerance} is right")
    return worst
