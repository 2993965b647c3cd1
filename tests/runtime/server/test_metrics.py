"""`/metrics`: what is counted, in a form Prometheus reads, and as the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import REGISTRY, parser
from prometheus_client.openmetrics import parser as openmetrics

from corella_edge.errors import UnknownValueError
from corella_edge_runtime.llm.llama.trust import Verdict

REQUEST = {"user": {}, "candidates": [{"item": i} for i in ("a", "new-1", "new-2", "mute-1")], "threshold": "ratio:1"}


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = parser.text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(text: str, name: str, **labels: str) -> float:
    return values(text)[(f"corella_edge_{name}", frozenset(labels.items()))]


def test_counts(site):
    for body in (REQUEST, REQUEST, {"user": {}, "candidates": [{"item": "a"}], "threshold": "ratio:0"}, b"{", {}):
        site.rank(body)
    site.call("GET", "/no/such/path")
    text = site.metrics()
    assert value(text, "requests_total", route="/v1/rank", status="200") == 3
    assert value(text, "requests_total", route="/v1/rank", status="400") == 1
    assert value(text, "requests_total", route="/v1/rank", status="422") == 1
    assert value(text, "requests_total", route="other", status="404") == 1
    assert value(text, "request_seconds_count", route="/v1/rank") == 5
    assert value(text, "request_seconds_bucket", route="/v1/rank", le="+Inf") == 5
    assert value(text, "candidates_total", bundle="fake@1", outcome="llm") == 6
    assert value(text, "candidates_total", bundle="fake@1", outcome="no_text") == 2
    assert value(text, "candidates_total", bundle="fake@1", outcome="easy") == 1
    assert value(text, "unknown_total", bundle="fake@1", field="item") == 4
    assert value(text, "rank_seconds_count", bundle="fake@1") == 3
    assert value(text, "version_share", bundle="fake@1") == 1
    assert value(text, "rank_in_flight") == 0
    assert value(text, "build_info", bundle="fake@1", version="0.1.0") == 1


def test_llm_totals_come_from_the_engine(site, make_site):
    assert value(site.metrics(), "llm_prompts_total", bundle="fake@1") == 7
    assert value(site.metrics(), "llm_evaluated_tokens_total", bundle="fake@1") == 50
    assert value(site.metrics(), "llm_reused_tokens_total", bundle="fake@1") == 20
    assert "something_else" not in site.metrics()
    assert "llm_prompts_total{" not in make_site(ready=False).metrics()


def test_what_computes_and_how_processes_ended(site):
    site.ranker.llm = SimpleNamespace(verdict=Verdict("plain", "why", "haswell"))
    text = site.metrics()
    assert value(text, "llm_exits_total", bundle="fake@1", cause="SIGILL") == 2
    assert value(text, "llm_kernels_info", bundle="fake@1", variant="haswell", kernels="plain") == 1
    site.ranker.llm.verdict = None
    assert "llm_kernels_info{" not in site.metrics()


def test_paths_from_outside_do_not_become_labels(site):
    for i in range(20):
        site.call("GET", f"/{i}")
    assert {line for line in site.metrics().splitlines() if 'route="/' in line and "_total" in line} == set()


def test_two_servers_do_not_share_counters(make_site):
    first, second = make_site(), make_site()
    first.rank({"user": {}})
    assert "/v1/rank" not in second.metrics()
    assert not [metric for metric in REGISTRY.collect() if metric.name.startswith("corella")]


def test_openmetrics_when_it_is_accepted(site):
    site.rank(REQUEST)
    response = site.call("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(response.text)}
    assert {"corella_edge_requests", "corella_edge_candidates", "corella_edge_llm_prompts"} <= names


def test_every_metric_is_in_the_documentation_and_none_else(site):
    page = Path(__file__).parents[3] / "docs" / "serve.md"
    site.rank(REQUEST)
    site.ranker.error = UnknownValueError("candidates[0].item: 'x' is unknown to this bundle", "item")
    site.rank(REQUEST)
    site.ranker.llm = SimpleNamespace(verdict=Verdict("ok", "", "haswell"))
    documented = set(re.findall(r"^\| `(corella_edge_\w+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    exported = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for name, _ in values(site.metrics())
        if name.startswith("corella_edge_") and not name.endswith("_created")
    }
    assert documented == exported


def test_a_refused_unknown_value_is_counted_by_field(site):
    site.ranker.error = UnknownValueError("candidates[0].item: 'x' is unknown to this bundle", "item")
    assert site.rank(REQUEST).status_code == 422
    assert value(site.metrics(), "unknown_refused_total", bundle="fake@1", field="item") == 1
