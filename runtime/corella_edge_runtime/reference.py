"""Repeat a bundle's reference rows: does this machine compute what the trained models computed?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from corella_edge.adapters import Adapters
from corella_edge.bundle.artefact import TEXT_REFERENCE, Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge.features.derived import Floats
from corella_edge.json_lines import Reference, parse_reference, read_lines
from corella_edge.request import Candidates
from corella_edge.routing.fusion import Fusion
from corella_edge.scores import Scores
from corella_edge_runtime.engine import Engine

FILE = "reference.jsonl"
ROUNDING = 1e-9
SPREAD = 64  # items of the catalogue that a reference row's user is scored with by both ways
LARGEST = float(np.finfo(np.float16).max)  # number of a text's vector


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Greatest allowed differences in probability; of a text, the distance of vectors by their length; of adapters
    beside the one that the bundle answers by, in theirs, by name."""

    crm: float
    llm: float
    text: float = 0.0
    adapters: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ReferenceCheck:
    """Rows repeated, the greatest differences found and allowed; `problems` are one line each.

    `fused` is of the final probability, against what the bundle's rule makes of the trained models' scores; `product`
    of the scores by which a catalogue is ranked, against those of `crm.onnx`.
    """

    allowed: Tolerance
    rows: int = 0
    crm: float = 0.0
    products: int = 0
    product: float = 0.0
    prompts: int = 0
    llm_rows: int = 0
    llm: float = 0.0
    fused: float = 0.0
    texts: int = 0
    text: float = 0.0
    adapters: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read(bundle: Bundle) -> list[Reference]:
    """The rows of reference.jsonl. Raises BundleError."""
    rows = list(read_lines(bundle.path(FILE), parse_reference, BundleError))
    if not rows:
        raise BundleError(f"{FILE}: holds no rows")
    return rows


def tolerance(bundle: Bundle) -> Tolerance:
    """What verification.json allows; a bundle without an LLM, or without texts to repeat, needs none for it."""
    found = bundle.tolerance()
    if not found.keys() >= {"crm", *(["llm"] if bundle.has("llm.gguf") else [])}:
        raise BundleError('verification.json: "tolerance" must hold the numbers "crm" and "llm"')
    if bundle.has(TEXT_REFERENCE) and "text" not in found:
        raise BundleError(f'verification.json: "tolerance" must hold the number "text", as there is {TEXT_REFERENCE}')
    return Tolerance(found["crm"], found.get("llm", 0.0), found.get("text", 0.0), _of_adapters(bundle))


def _of_adapters(bundle: Bundle) -> dict[str, float]:
    """What verification.json allows each adapter that has a tolerance of its own."""
    told = bundle.json("verification.json").get("adapters")
    rows = told if isinstance(told, dict) else {}
    found = {name: row["tolerance"] for name, row in rows.items() if isinstance(row, dict) and "tolerance" in row}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
            raise BundleError(
                f'verification.json: "tolerance" of the adapter {name!r:.80} must be a number from 0 to 1'
            )
    return {name: float(value) for name, value in found.items()}


def compare(engine: Engine, tell: Callable[[int, int], None] = lambda done, of: None) -> ReferenceCheck:
    """Score every reference row of the bundle again, and make the vector of every reference text.

    The LLM's part, and that of texts, only where the engine has what it takes. `tell` gets how many rows are done, and
    of how many.

    Raises:
        BundleError: see `read`, `read_texts` and `tolerance`.
    """
    allowed, rule = tolerance(engine.bundle), engine.bundle.fusion()
    result = ReferenceCheck(allowed)
    threshold = "ratio:0" if engine.llm is None else "ratio:1"
    rows = read(engine.bundle)
    for number, row in enumerate(rows, 1):
        tell(number - 1, len(rows))
        scores = engine.rank(replace(row.request, threshold=threshold, timeout_ms=None), refuses=False)
        result.rows += 1
        found = list(_crm(row, float(scores.crm[0]), allowed.crm, result))
        if engine.llm is not None:
            found += [*_prompt(row, engine, result), *_llm(row, float(scores.llm[0]), allowed.llm, result)]
            if not found:  # what only follows from a difference above is not told
                found += _fused(row, scores, rule, allowed, result)
        result.problems += [f"{FILE} row {number}: {problem}" for problem in found]
    result.problems += _products(engine, rows, allowed.crm, result)
    result.problems += [*_adapters(engine, rows, allowed, result), *_texts(engine, allowed.text, result)]
    return result


def _products(engine: Engine, rows: Sequence[Reference], allowed: float, result: ReferenceCheck) -> Iterator[str]:
    """A line for every reference row whose user is scored otherwise by products than by `crm.onnx`, with some items of
    the catalogue, each row with the next ones."""
    products, encoder = engine.products, engine.encoder
    ids, at = encoder.catalog.ids, np.arange(min(SPREAD, len(encoder.catalog)))
    for number, row in enumerate(rows if products and len(at) else (), 1):
        assert products is not None
        some = np.sort((at + (number - 1) * len(at)) % len(ids))
        items, user = Candidates([ids[place] for place in some.tolist()], None, some), row.request.user
        found = products.probability(encoder.encode_beside(user, items)[0], some)
        apart = float(np.abs(found - engine.crm.probability(encoder.encode(user, items)[0])).max())
        result.products += len(some)
        result.product = _greater(result.product, apart)
        if not apart <= allowed:
            yield (f"{FILE} row {number}: the product by which the catalogue is ranked gives a probability that is "
                   f"{apart:.1e} from that of the CRM's file (at most {allowed:g})")  # fmt: skip


def _adapters(engine: Engine, rows: Sequence[Reference], allowed: Tolerance, result: ReferenceCheck) -> Iterator[str]:
    """A line for every row whose P(Yes) by a further adapter is too far from the trained one's. One adapter after the
    other: each turn to another one costs."""
    names = engine.adapters.names if engine.llm is not None else ()
    held = {name for row in rows for name in row.adapters}
    for name in sorted(held - {*engine.adapters.names}):
        yield f"{FILE}: the adapter {name} is not in the bundle"
    for name in unheld(rows, engine.adapters):
        yield f"{FILE}: no row is of the adapter {name}, so nothing tells whether it answers here as it was trained"
    for name, (number, row) in product(names, enumerate(rows, 1)):
        if name not in row.adapters:
            continue
        asked = replace(row.request, threshold="ratio:1", timeout_ms=None, adapters={name: 1.0})
        found, trained = float(engine.rank(asked, refuses=False).llm[0]), row.adapters[name]
        result.adapters[name] = _greater(result.adapters.get(name, 0.0), abs(found - trained))
        most = allowed.adapters.get(name, allowed.llm)
        if not abs(found - trained) <= most:
            yield f"{FILE} row {number}: adapter {name} gives {found:.5f}, trained {trained:.5f} (at most {most:g})"


def unheld(rows: Iterable[Reference], adapters: Adapters) -> list[str]:
    """Adapters of a bundle that none of its reference rows is of. A row's `llm` is by the bundle's default, which is of
    an adapter only where that one counts alone, as it was trained."""
    held: set[str] = set()
    for row in rows:
        held.update(row.adapters)
        if row.llm is not None:
            held.update(name for name in adapters.names if adapters.default == ((name, 1.0),))
    return [name for name in adapters.names if name not in held]


def read_texts(bundle: Bundle) -> list[tuple[str, Floats]]:
    """The texts of text/reference.jsonl with the trained encoder's vectors, if it is there. Raises BundleError."""
    if not bundle.has(TEXT_REFERENCE):
        return []
    return list(read_lines(bundle.path(TEXT_REFERENCE), _text_row, BundleError))


def _text_row(value: Any) -> tuple[str, Floats]:
    if not isinstance(value, dict) or value.keys() != {"text", "vector"} or not isinstance(value["text"], str):
        raise InputError("expected an object with the fields text, vector")
    numbers = value["vector"]
    if not isinstance(numbers, list) or any(type(x) not in (int, float) or not abs(x) <= LARGEST for x in numbers):
        raise InputError("vector: expected a list of numbers as float16 has them")
    return value["text"], np.array(numbers, np.float32)


def _texts(engine: Engine, allowed: float, result: ReferenceCheck) -> Iterator[str]:
    """A line for every text whose vector is too far from the trained encoder's."""
    rows = read_texts(engine.bundle) if engine.encoder.make_vectors else []
    for number, (text, expected) in enumerate(rows, 1):
        assert engine.encoder.make_vectors is not None
        found = engine.encoder.make_vectors([text])[0]
        apart = distance(found, expected) if found.shape == expected.shape else math.nan
        result.texts += 1
        result.text = _greater(result.text, apart)
        if not apart <= allowed:
            yield (f"{TEXT_REFERENCE} row {number}: the text's vector is {apart:.1e} of its length from the trained "
                   f"encoder's (at most {allowed:.1e})")  # fmt: skip


def distance(found: Floats, expected: Floats) -> float:
    """How far a vector is from the expected one, as a share of that one's length."""
    length = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / max(length, float(np.finfo(np.float32).tiny))


def _crm(row: Reference, probability: float, allowed: float, result: ReferenceCheck) -> Iterator[str]:
    difference = abs(probability - row.crm)
    result.crm = _greater(result.crm, difference)
    if not difference <= allowed:
        yield f"the CRM gives {probability:.7f}, trained {row.crm:.7f} (at most {allowed:g} apart)"


def _prompt(row: Reference, engine: Engine, result: ReferenceCheck) -> Iterator[str]:
    result.prompts += row.prompt is not None
    if prompt_ids(engine, row) != row.prompt:
        yield "the prompt's token ids differ from the trained tokenizer's"


def _llm(row: Reference, probability: float, allowed: float, result: ReferenceCheck) -> Iterator[str]:
    if row.llm is None:
        return
    result.llm_rows += 1
    difference = abs(probability - row.llm)
    result.llm = _greater(result.llm, difference)
    if not difference <= allowed:
        yield f"the LLM gives {probability:.5f}, trained {row.llm:.5f} (at most {allowed:g} apart)"


def _fused(row: Reference, scores: Scores, rule: Fusion, allowed: Tolerance, result: ReferenceCheck) -> Iterator[str]:
    """Where both models may differ from the trained ones, so may what the rule makes of them, and no further."""
    if row.llm is None:
        return
    probability = float(scores.probability[0])
    expected, _ = rule.bounds(row.crm, row.llm, 0.0, 0.0, scores.inputs)
    low, high = rule.bounds(row.crm, row.llm, allowed.crm, allowed.llm, scores.inputs)
    result.fused = _greater(result.fused, abs(probability - expected))
    if not low - ROUNDING <= probability <= high + ROUNDING:
        yield f"{rule.rule} gives {probability:.5f}, trained {expected:.5f} ({low:.5f} to {high:.5f} is right)"


def prompt_ids(engine: Engine, row: Reference) -> tuple[int, ...] | None:
    """The runtime's token ids of a row's prompt; None without text or without an LLM."""
    if engine.llm is None or row.request.candidates is None:
        return None
    suffix = engine.llm.prompts.suffix(row.request.candidates[0])
    return None if suffix is None else (*engine.llm.prompts.prefix(row.request.user), *suffix)


def _greater(a: float, b: float) -> float:
    """The greater one; nan if either is."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)
