"""What a bundle holds, for people and programs: every part read by itself, so that a damaged bundle still shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from corella_edge.bundle.artefact import MANIFEST, SEAL, Bundle, Manifest, not_a_bundle, seal_of, sha256
from corella_edge.bundle.files import decode, read_bytes, read_json
from corella_edge.bundle.signature import TrustedKey
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, CorellaError
from corella_edge.json_lines import parse_reference, read_lines
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request import Candidate, User
from corella_edge.routing.forms import OWN, parse_threshold
from corella_edge.routing.policy import RATIOS, UNASKABLE
from corella_edge.routing.routing_file import CALIBRATED_ON


@dataclass(frozen=True, slots=True)
class Survey:
    """A folder taken for a bundle, and everything about its files that is not as listed."""

    bundle: Bundle | None
    problems: list[str]

    @property
    def damage(self) -> str:
        """The problems in one line."""
        return damage(self.problems)


def damage(problems: Sequence[str]) -> str:
    """What is damaged, in one line."""
    return "damaged, not as exported: " + ", ".join(dict.fromkeys(line.partition(":")[0] for line in problems))


def survey(root: Path, trust: TrustedKey | None = None) -> Survey:
    """Look at every file, however damaged the others are.

    Raises:
        BundleError: there is no bundle at all at that place, or it is not signed with the trusted key.
    """
    if not (root / MANIFEST).is_file():
        raise not_a_bundle(root)
    raw = read_bytes(root / MANIFEST)
    if trust is not None:
        trust.check(root, raw)
    problems = list(_seal_problems(root, raw))
    try:
        bundle = Bundle(root, Manifest.parse(decode(raw, MANIFEST)))
    except BundleError as error:
        return Survey(None, [*problems, str(error)])
    return Survey(bundle, problems + list(bundle.problems()))


def _seal_problems(root: Path, raw: bytes) -> Iterator[str]:
    if not (root / SEAL).is_file():
        yield f"{SEAL}: missing"
    elif read_bytes(root / SEAL) != seal_of(raw):
        yield f"{MANIFEST}: does not match {SEAL}; one of the two was changed"


def describe(root: Path) -> dict[str, Any]:
    """Everything `inspect` shows, as JSON-ready values; "problems" lists what is damaged.

    Raises:
        BundleError: there is no bundle at all at that place.
    """
    found = survey(root)
    result: dict[str, Any] = {"problems": list(found.problems)}
    if found.bundle is None:
        return result
    parts = _PARTS if _all_plain(found.bundle) else {name: _PARTS[name] for name in ("bundle", "files")}
    for name, part in parts.items():
        try:
            result[name] = part(found.bundle)
        except (CorellaError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _add(result["problems"], f"{name}: cannot be shown ({error})")
    return result


def _all_plain(bundle: Bundle) -> bool:
    """Whether whatever is there under a listed name is a plain file: a pipe or a device could be read without end."""
    paths = [bundle.path(name) for name in bundle.manifest.files]
    return not any(path.is_symlink() or (path.exists() and not path.is_file()) for path in paths)


def _add(problems: list[str], line: str) -> None:
    if line not in problems:
        problems.append(line)


def _identity(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    head = {"name": manifest.name, "version": manifest.version, "format_version": manifest.to_json()["format_version"]}
    return {**head, "sha256": sha256(bundle.path(MANIFEST)), **dict(manifest.about)}


def _files(bundle: Bundle) -> list[dict[str, Any]]:
    return [{"file": n, "bytes": e.size, "sha256": e.sha256} for n, e in sorted(bundle.manifest.files.items())]


def _fields(bundle: Bundle) -> list[dict[str, Any]]:
    schema, _ = bundle.schema()
    keys = ("name", "kind", "side", "source", "length")
    return [{**{key: getattr(item, key) for key in keys},
             "vocab": item.vocab or None, "values": len(schema.vocabularies[item.vocab]) if item.vocab else None}
            for item in schema.fields]  # fmt: skip


def _catalogue(bundle: Bundle) -> dict[str, Any]:
    catalog = bundle.catalog()
    attributes = sorted({name for record in islice(catalog.attributes, 1000) for name in record})
    return {"items": len(catalog), "attributes": attributes}


def _prompt(bundle: Bundle) -> dict[str, Any] | None:
    prompt = bundle.prompt()
    if prompt is None:
        return None
    template, tokens = prompt
    catalog = bundle.catalog()
    rows = read_lines(bundle.path("reference.jsonl"), parse_reference, BundleError)
    texts = (render(template, catalog, row.request.user, row.request.candidates[0])
             for row in rows if row.request.candidates)  # fmt: skip
    example = next((text for text in texts if text is not None), None)
    return {"yes": tokens.yes, "no": tokens.no, "bos": tokens.bos, "chat": bool(tokens.after), "example": example}


def render(template: Template, catalog: Catalog, user: User, candidate: Candidate) -> str | None:
    """A prompt as text, for people; None when the candidate has no text. The models' encoder, letters as tokens."""
    answers = {-1: template.yes, -2: template.no}
    encoder = PromptEncoder(template, catalog, lambda text: [ord(letter) for letter in text], Tokens(-1, -2, None))
    question = encoder.suffix(candidate)
    if question is None:
        return None
    return "".join(answers[token] if token < 0 else chr(token) for token in [*encoder.prefix(user), *question])


def _routing(bundle: Bundle) -> dict[str, Any]:
    data, calibration, routing = bundle.json("routing.json"), bundle.calibration(), bundle.routing()
    thresholds = [{"ratio": ratio, "threshold": calibration.threshold(ratio) if ratio else None} for ratio in RATIOS]
    policy = parse_threshold(OWN.prefix, replace(routing, cost=UNASKABLE))
    head = {"threshold": routing.threshold, "nats": None if policy.budget else _nats(routing.as_nats(policy)),
            "measure": policy.measure.to_json(), "share": None if policy.budget else routing.share(policy),
            "fusion": routing.fusion.to_json() | _fitted(data)}  # fmt: skip
    other = {CALIBRATED_ON: found} if (found := bundle.calibrated_on()) else {}
    told = {"rows": data.get("rows"), "judged": _judged(data), "fusions": data.get("fusions") or []}
    return {**head, **other, **told, "table": data.get("table") or thresholds}


def _judged(data: dict[str, Any]) -> str:
    """The rows that the table is of: those of the calibration, or, where `calibrate` made it, the later ones of a log.

    An export keeps a record by time, too, but its table is of all its rows, and its threshold of no log.
    """
    later = (data.get("calibrated") or {}).get("parts", {}).get("held_out")
    of_log = later and "threshold" in data.get("policy", {})
    return f"{later['rows']:,} later rows of a log" if of_log else f"{data.get('rows') or 0:,} validation rows"


def _nats(threshold: float) -> float | None:
    return threshold if math.isfinite(threshold) else None


def _fitted(data: dict[str, Any]) -> dict[str, Any]:
    """What a fusion rule was fitted on, if the bundle tells."""
    fit = data.get("fusion", {}).get("fit")
    return {"fit": fit} if isinstance(fit, dict) else {}


def _verification(bundle: Bundle) -> dict[str, Any]:
    return read_json(bundle.path("verification.json"))


_PARTS: dict[str, Callable[[Bundle], Any]] = {
    "bundle": _identity,
    "files": _files,
    "fields": _fields,
    "catalogue": _catalogue,
    "prompt": _prompt,
    "adapters": lambda bundle: bundle.adapters().to_json() if bundle.adapters().names else None,
    "routing": _routing,
    "verification": _verification,
}
