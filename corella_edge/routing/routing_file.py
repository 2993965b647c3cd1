"""routing.json: what a bundle says of routing, read strictly; and policies in files of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from corella_edge.errors import BundleError, InputError
from corella_edge.routing.decision import parse_reach
from corella_edge.routing.forms import OWN, read_threshold
from corella_edge.routing.fusion import REPLACE, Fusion, parse_fusion
from corella_edge.routing.measure import BY_ENTROPY, LN2, NEVER, Floats, Measure, parse_measure
from corella_edge.routing.policy import Calibration, Policy, Routing

MOST = 1e12  # of a threshold, whatever its unit
CALIBRATED_ON = "calibrated_on"  # `name@version` of the bundle whose catalogue it all is of, where that was replaced


def parse_routing(data: Mapping[str, Any]) -> Routing:
    """What routing.json says; of an earlier release `policy`, `probabilities`, `base_rate` and `rows` are missing.

    Raises:
        BundleError: names file and field.
    """
    policy = data.get("policy")
    if policy is not None and not isinstance(policy, dict):
        raise BundleError("routing.json: policy: expected an object")
    measure, own = (BY_ENTROPY, None) if policy is None else (_measure(policy), _own(policy))
    values = None if measure is BY_ENTROPY else _values(policy or {}, measure)
    return Routing(
        _threshold(data), parse_calibration(data), measure, values,
        read_fusion(data), own, _probabilities(data),
        _share(data, "base_rate"), data["rows"] if type(data.get("rows")) is int else None,
        reach=parse_reach(data["reach"]) if "reach" in data else None,
    )  # fmt: skip


def policy_json(policy: Policy) -> dict[str, Any]:
    """What `parse_policy` reads."""
    found: dict[str, Any] = {"measure": policy.measure.to_json(), "threshold": finite(policy.threshold)}
    return found | ({} if policy.fusion == REPLACE else {"fusion": policy.fusion.to_json()})


def parse_policy(data: Any) -> Policy:
    """A policy from a file of its own; one with a budget is written as `ms:` in routing.json.

    Raises:
        BundleError: names the field, as of routing.json.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: policy: expected an object")
    threshold = _own(data)
    if threshold is None:
        raise BundleError("routing.json: policy.threshold: expected a number, or null for never")
    return Policy(_measure(data), threshold, read_fusion(data), None, OWN.reason)


def finite(value: float) -> float | None:
    """A threshold as JSON has it: null for "never"."""
    return None if value == NEVER else float(value)


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """`shares` and `thresholds`, as `parse_routing` reads them."""
    return {"shares": calibration.shares.tolist(), "thresholds": [finite(t) for t in calibration.thresholds.tolist()]}


def _threshold(data: Mapping[str, Any]) -> str:
    text = data.get("threshold", "ratio:0")
    if not isinstance(text, str):
        raise BundleError("routing.json: threshold is not a text")
    try:
        form, _ = read_threshold(text)
    except InputError as error:
        raise BundleError(f"routing.json: {error}") from None
    if form is OWN:
        raise BundleError("routing.json: threshold: policy stands for what the bundle says, which must say more")
    return text


def parse_calibration(data: Mapping[str, Any]) -> Calibration:
    """The calibration of the entropies; raises BundleError. JSON has no infinity, so null stands for "never"."""
    found = _calibration(data.get("calibration"), 0.0)
    if found.shares[[0, -1]].tolist() != [0.0, 1.0] or not (0.0 <= found.thresholds[-1] <= LN2):
        raise BundleError(f"routing.json: shares must go from 0 to 1, thresholds down to one from 0 to {LN2:.4f}")
    return found


def read_fusion(data: Mapping[str, Any]) -> Fusion:
    """How both scores of a routed row become one; the LLM's replaces the CRM's where nothing is said."""
    return parse_fusion(data["fusion"]) if "fusion" in data else REPLACE


def _values(policy: Mapping[str, Any], measure: Measure) -> Calibration | None:
    if "shares" not in policy:
        return None
    found = _calibration(policy, measure.least)
    if found.shares[[0, -1]].tolist() != [0.0, 1.0]:
        raise BundleError("routing.json: policy.shares must go from 0 to 1")
    return found


def _calibration(data: Any, least: float) -> Calibration:
    try:
        thresholds = [math.inf if t is None else t for t in data["thresholds"]]
        return Calibration(data["shares"], thresholds, least)
    except KeyError as error:
        raise BundleError(f"routing.json: the calibration has no {error.args[0]}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"routing.json: the calibration's shares or thresholds are wrong ({error})") from None


def _measure(policy: Mapping[str, Any]) -> Measure:
    return parse_measure(policy["measure"]) if "measure" in policy else BY_ENTROPY


def _own(policy: Mapping[str, Any]) -> float | None:
    """The threshold of the object `policy`: null = never; None = there is none."""
    if "threshold" not in policy:
        return None
    value = policy["threshold"]
    if value is None:
        return NEVER
    if type(value) not in (int, float) or not -MOST <= value <= MOST:
        raise BundleError("routing.json: policy.threshold: expected a number, or null for never")
    return float(value)


def _probabilities(data: Mapping[str, Any]) -> Floats | None:
    if "probabilities" not in data:
        return None
    try:
        found = np.asarray(data["probabilities"], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    rising = found.ndim == 1 and len(found) and (np.diff(found) >= 0).all()
    if not rising or not (found[0] >= 0.0 and found[-1] <= 1.0):
        raise BundleError("routing.json: probabilities: expected numbers from 0 to 1 that do not fall")
    return found


def _share(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0.0 <= value <= 1.0:
        raise BundleError(f"routing.json: {name}: expected a share from 0 to 1")
    return float(value)
