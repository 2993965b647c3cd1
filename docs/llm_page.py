"""The LLM's tables of docs/results.md: the kept benchmarks of the LLM's scorer and of the CRM beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serving_page import between

from corella_edge_runtime.llm.contract.settings import TOLERANCE
from harness.pairs import ENOUGH
from scenarios.crm_targets import TARGETS, judged_paths
from scenarios.crm_targets import targets as crm_targets

Json = dict[str, Any]
Lines = Iterator[str]
NOT_YET = "Not measured yet."


def page(text: str, results: Path) -> str:
    """A page with the tables between its markers."""
    for name, lines in parts(results).items():
        text = between(text, name, "\n".join(lines).strip())
    return text


def parts(results: Path) -> dict[str, Iterator[str]]:
    """The tables by the names of their markers."""
    return {name: _part(results, files, make) for name, (files, make) in SECTIONS.items()}


def _part(results: Path, files: Sequence[str], make: Callable[[Json], Lines]) -> Lines:
    # Those of further CPUs lie in folders of their own.
    paths = [path for file in files for path in (results / f"{file}.json", *sorted(results.glob(f"*/{file}.json")))]
    found = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
    yield from [line for result in found for line in make(result)] or [NOT_YET]


def _machine(result: Json) -> str:
    machine, versions = result["machine"], result["versions"]
    tools = ", ".join(f"{name} {versions[name]}" for name in ("llama_cpp", "onnxruntime") if name in versions)
    made = f"{result['made'][:10]}, commit {result['commit']}"
    return f"{machine['cpu']}, {machine['cores']} core(s), {tools}; {made}."


def _interval(ratio: Json, digits: int = 3) -> str:
    few = f" of {ratio['pairs']} pair(s)" if ratio.get("pairs", ENOUGH) < ENOUGH else ""
    return f"{ratio['median']:.{digits}f} [{ratio['low']:.{digits}f}, {ratio['high']:.{digits}f}]{few}"


def _void(row: Json) -> str:
    return " (void: the machine was not quiet)" if row.get("void") else ""


def _deviation(result: Json) -> Lines:
    yield f"{_machine(result)} {result['callers']} callers at a time, {result['candidates']} candidates."
    yield ""
    head = f"greatest | 99.99 % | mean | above {result['far']:g} | published tolerance | deterministic, repeated |"
    yield f"| bundle | file | type | prompts | answers | {head}"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in result["rows"]:
        what = f"{row['bundle']} | `{row['file']}` | {row['type']} | {row['prompts']:,} | {row['answers']:,}"
        gaps = " | ".join(f"{row[name]:.1e}" for name in ("greatest", "p9999", "mean", "far"))
        yield f"| {what} | {gaps} | {_published(row)} | {'bit-equal' if row['repeats'] else 'NOT equal'} |"


def _published(row: Json) -> str:
    tolerance = TOLERANCE.get(row["type"])
    if tolerance is None:
        return "none"
    return f"{tolerance:g}" if row["greatest"] <= tolerance else f"{tolerance:g}, **exceeded**"


def _scoring(result: Json) -> Lines:
    yield f"{_machine(result)} {result['threads']} thread(s)."
    yield "Shapes: (a1) 1 user, prefix 200 tokens, 20 candidates of 40;"
    yield "(a2) the same with candidates of 10; (b) 64 unrelated prompts of 240; (c) users who return."
    yield from _blocks(result)
    yield ""
    yield from _targets(result["targets"])
    for one in result["ceilings"]:
        rates = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in one["gflops"].items())
        bench = ", ".join(f"{kind} {speed['tokens_per_s']:,.0f}" for kind, speed in one["llama_bench"].items())
        yield f"Ceilings, {one['model']}: torch's matrix multiplication {rates}; `llama-bench -p 240` {bench} tokens/s."
        yield ""
    yield from _peers([row for block in result["blocks"] if block["shape"][0] == "a" for row in block["rows"]])
    yield from _bulk([row for block in result["blocks"] if block["shape"] == "b" for row in block["rows"]])
    yield from _returning([row for block in result["blocks"] if block["shape"] == "c" for row in block["rows"]])
    yield from _product(result)
    yield from _memory(result)


def _blocks(result: Json) -> Lines:
    """Among which types "best" was sought, and which figures are of an earlier commit."""
    parts = list(_parts(result))
    tried = [f"{name}: {', '.join(one['plan']['types'])}" for name, one in parts if "plan" in one]
    if tried:
        yield f"GGUF types tried: {'; '.join(tried)}."
    older = [f"{name}: {one['commit']}" for name, one in parts if one.get("commit", "") not in ("", result["commit"])]
    if older:
        yield f"Measured at other commits: {'; '.join(older)}."


def _parts(result: Json) -> Iterator[tuple[str, Json]]:
    """Whatever may be of a run of its own, by name."""
    for block in result["blocks"]:
        name = f"{block['model']} {block['shape']}"
        yield name, block
        yield from ((f"{name} {', '.join(sides)}", json.loads(source)) for source, sides in _kept(block).items())
    yield from ((name, result[name]) for name in ("product", "start", "memory") if name in result)
    for what in ("ceilings", "parity"):
        yield from ((f"{what} {one['model']}", one) for one in result.get(what, []))
    yield from ((f"memory {one['model']} {one['type']}", one) for one in result.get("memory_of_files", []))


def _kept(block: Json) -> dict[str, list[str]]:
    """Runs that rows of a block were kept of, as JSON, and the rows' peers or types."""
    found: dict[str, list[str]] = {}
    for row in block["rows"]:
        if "kept" in row and row["stage"] == "best":
            found.setdefault(json.dumps(row["kept"]), []).append(row["ours_type" if row["shape"] == "b" else "peer"])
    return found


def _targets(found: list[Json], digits: int = 3) -> Lines:
    yield "| target | found | wanted | |"
    yield "|---|---|---|---|"
    for one in found:
        value = _interval({**one, "median": one["value"]}, digits) if "low" in one else f"{one['value']:.3g}"
        state = "void" if one["void"] else "met" if one["met"] else "**not met**"
        wanted = f"{'≤' if one['sign'] == '<=' else '≥'} {one['limit']:g}"
        yield f"| {one['target']} | {value} | {wanted} | {state} |"
    yield ""


def _peers(rows: list[Json]) -> Lines:
    yield "Against peers, each side at its best GGUF type of those tried:"
    yield ""
    yield "| model | shape | ours | ms | peer | its type | ms | ours / peer |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if row["stage"] == "best":
            ours = f"{row['ours_type']} | {row['ours_ms']:,.0f}"
            peer = f"{row['peer']} | {row['peer_type']} | {row['peer_ms']:,.0f}"
            yield f"| {row['model']} | {row['shape']} | {ours} | {peer} | {_interval(row['ratio'])}{_void(row)} |"
    yield ""


def _bulk(rows: list[Json]) -> Lines:
    if not rows:
        return
    yield "Unrelated prompts (b):"
    yield ""
    head = "tokens/s | llama-bench, best `-ub` | ours / llama-bench | share of torch's bf16 rate | llama-bench's share"
    yield f"| model | type | {head} |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        speeds = f"{row['ours_tokens_per_s']:,.0f} | {row['peer_tokens_per_s']:,.0f}"
        theirs = _interval(row["peer_share_of_bf16"]) if "peer_share_of_bf16" in row else ""
        shares = f"{_interval(row['speed'])} | {_interval(row['share_of_bf16'])}{_void(row)} | {theirs}"
        yield f"| {row['model']} | {row['ours_type']} | {speeds} | {shares} |"
    yield ""


def _returning(rows: list[Json]) -> Lines:
    if not rows:
        return
    yield "A user who returns (c), candidates of 10 tokens:"
    yield ""
    yield "| model | candidates | type | first, ms | returning, ms | returning / first | returning / suffixes alone |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row["stage"] == "best":
            times = f"{row['first_ms']:,.0f} | {row['returning_ms']:,.0f}"
            ratios = f"{_interval(row['to_first'])} | {_interval(row['to_suffixes_alone'])}{_void(row)}"
            yield f"| {row['model']} | {row['shape'][1:]} | {row['ours_type']} | {times} | {ratios} |"
    yield ""


def _product(result: Json) -> Lines:
    if "product" not in result:
        return
    found = result["product"]
    yield f"The product (d), `Engine.rank` with {found['candidates']} candidates at `{found['threshold']}`, bundle"
    threads = f", {found['llm_threads']} LLM thread(s) on either side" if "llm_threads" in found else ""
    yield f"{found['bundle']}{threads}; llama-server is asked about the same hard rows."
    yield f"Requests without any are left out. Milliseconds, p50 / p99{_void(found)}:"
    yield ""
    yield "| users | requests | hard rows | `Engine.rank` | CRM alone | CRM and llama-server | ours / theirs |"
    yield "|---|---|---|---|---|---|---|"
    for users in ("new", "returning"):
        row = found[users]
        times = " | ".join(
            f"{row[side]['p50']:.1f} / {row[side]['p99']:.1f}" for side in ("engine", "crm_alone", "server")
        )
        yield f"| {users} | {row['requests']} | {row['hard_rows']:.1f} | {times} | {_interval(row['to_server'])} |"
    yield ""


def _memory(result: Json) -> Lines:
    rows = [(result["product"]["bundle"], "the runtime", result["memory"])] if "memory" in result else []
    rows += [(row["model"], f"a scorer, {row['type']}", row) for row in result.get("memory_of_files", [])]
    if not rows:
        return
    yield "Memory, MiB. Beyond model and KV = peak anonymous memory and libraries, without KV cells and kept prefixes;"
    yield "repacked weights (a second copy in another order) and llama.cpp's buffers are part of it:"
    yield ""
    head = "peak anonymous | libraries | KV and kept | beyond model and KV | compute | output | repacked"
    yield f"| model | what | {head} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for model, what, row in rows:
        buffers = " | ".join(
            f"{row['buffers'].get(f'CPU{name}', 0.0):,.1f}" for name in (" compute", " output", "_REPACK model")
        )
        sizes = " | ".join(f"{row[k]:,.1f}" for k in ("peak_anonymous", "libraries", "kv", "beyond_model_and_kv"))
        yield f"| {model} | {what} | {sizes} | {buffers} |"
    yield ""


def _crm(result: Json) -> Lines:
    yield f"{_machine(result)} One thread.{_void(result)}"
    yield ""
    yield from _targets(crm_targets(result), digits=2)
    yield from _missed(result)
    yield "| bundle | candidates | user | encode and run against a bare run on prepared arrays |"
    yield "|---|---|---|---|"
    for one in result["bundles"]:
        for row in one["paths"]:
            yield f"| {one['bundle']} | {row['candidates']} | {row['user']} | {_interval(row['ratio'], 2)} |"
    yield ""
    for one in result["bundles"]:
        times = ", ".join(f"{kind} user {us['p50']:.0f} µs" for kind, us in one["encode_one_us"].items())
        runs = ", ".join(f"{n}: {us:,.0f}" for n, us in one["ceilings"]["bare_run_us"].items())
        yield f"- {one['bundle']}: encoding one candidate, {times} (p50); a bare run by candidates, µs: {runs}."
        for peer in ("int8", "torch"):
            for row in one.get(peer, []):
                if row["candidates"] in (20, 100, 256):
                    found = f"at {row['candidates']}: {_interval(row['ratio'], 2)}"
                    yield f"- {one['bundle']}: {peer} against FP32 in ONNX Runtime {found}."
        if "beside_llm" in one:
            yield f"- {one['bundle']}: {_beside(one['beside_llm'])}"


def _missed(result: Json) -> Lines:
    """Why encoding weighs so much where the path misses its target."""
    for one in result["bundles"]:
        paths = [row for row in judged_paths(one) if row["ratio"]["high"] > TARGETS["path"]]
        if not paths:
            continue
        n = paths[0]["candidates"]
        bare = one["ceilings"]["bare_run_us"][str(n)]
        found = ", ".join(f"{(row['ratio']['median'] - 1) * bare:.0f} µs ({row['user']} user)" for row in paths)
        yield f"{one['bundle']}: the model is so small that a bare run takes {bare:.0f} µs at {n} candidates, and the"
        yield f"target leaves {(TARGETS['path'] - 1) * bare:.0f} µs to encode them. It takes {found}:"
        yield f"to look up {n} ids, to read a new user's history and to gather every field costs the same in numpy,"
        yield "however small the model is."
        yield ""


def _beside(row: Json) -> str:
    p99 = f"{row['calm']['p99_ms']:.2f} → {row['busy']['p99_ms']:.2f} ms"
    where = f"LLM in a {row['llm']}, {row['llm_tokens_per_s']:,} tokens/s"
    ratio = _interval(row["p99_ratio"], 2)
    return f"CRM p99 at 100 requests/s of 20 candidates, LLM idle → saturated: {p99}, ratio {ratio} ({where})."


def _template(result: Json) -> Lines:
    yield from _targets(result["targets"], digits=4)
    for name, make in (("auc", _wording_auc), ("timing", _wording_times)):
        part = result["parts"].get(name)
        yield from make({**result, **part}) if part else (f"The part `{name}` is not measured yet.", "")


def _wording_auc(part: Json) -> Lines:
    tokens = part["constant_tokens"]
    yield f"{_machine(part)} Recipe `{part['recipe']}`, data `{part['data']}`:"
    yield f"one epoch on {part['training_rows']:,} rows, questions in words;"
    yield f"{part['rows']:,} validation rows of {part['users']:,} users."
    yield f"After the candidate's text stand {tokens['ours']} token(s) in ours, {tokens['paper']} in the paper's."
    yield "95 % intervals by bootstrap over users, paired for the difference; they do not cover the chance of training."
    yield ""
    yield "| seed | AUC, ours | AUC, the paper's | ours - the paper's | training, ours | training, the paper's |"
    yield "|---|---|---|---|---|---|"
    for one in part["seeds"]:
        training = (one["training"][name] for name in ("ours", "paper"))
        costs = " | ".join(f"{form['steps']:,} steps, {form['tokens_a_row']:.0f} tokens a row" for form in training)
        yield f"| {one['seed']} | {_wordings(one)} | {costs} |"
    if len(part["seeds"]) > 1:
        yield f"| mean | {_wordings(part)} | | |"
    yield ""


def _wordings(row: Json) -> str:
    found = [_interval({**row[name], "median": row[name]["value"]}, 4) for name in ("ours", "paper", "difference")]
    return " | ".join(found)


def _wording_times(part: Json) -> Lines:
    yield f"{_machine(part)} {part['threads']} thread(s), {part['gguf']}, models of seed {part['seed']},"
    yield f"{part['candidates']} candidates after at most {part['history_lines'] + part['block']} lines of history."
    yield "Short lines: the histories are equal token by token, so a longer one brings a new user's ratio nearer to 1;"
    yield "repeated: each line is the answered question, as in bundles of the two templates."
    yield ""
    yield "| lines | user | tokens, ours | tokens, the paper's | ours, ms | the paper's, ms | ours / the paper's |"
    yield "|---|---|---|---|---|---|---|"
    for row in part["rows"]:
        counts = (row["tokens"][name] for name in ("ours", "paper"))
        tokens = " | ".join(f"{one['prefix']:.0f} + {part['candidates']} of {one['suffix']:.0f}" for one in counts)
        times = f"{row['ours_ms']:,.1f} | {row['paper_ms']:,.1f} | {_interval(row['ratio'])}{_void(row)}"
        yield f"| {row['lines']} | {row['user']} | {tokens} | {times} |"
    yield ""


def _settings(result: Json) -> Lines:
    yield f"{_machine(result)} {result['threads']} thread(s)."
    yield f"A returning user, prefix of {result['prefix']} tokens kept, {result['candidates']} candidates:"
    yield "time with the change / time with the usual settings, above 1 it is slower;"
    yield "(n) = decodes, where they are not as usual."
    yield ""
    blocks: dict[tuple[str, str], list[Json]] = {}
    for block in result["blocks"]:
        blocks.setdefault((block["model"], block["type"]), []).append(block)
    for found in blocks.values():
        yield from _changes(found)


def _changes(blocks: list[Json]) -> Lines:
    """One model and type: a column a length of the suffixes."""
    first = blocks[0]
    heads = [f"suffixes of {one['suffix']}{_void(one)}" for one in blocks]
    yield f"| {first['model']}, {first['type']} | {' | '.join(heads)} |"
    yield "|---" * (len(blocks) + 1) + "|"
    usual = [f"{one['usual_ms']:,.1f} ms ({one['decodes']})" for one in blocks]
    yield f"| usual settings | {' | '.join(usual)} |"
    for rows in zip(*(one["rows"] for one in blocks), strict=True):
        yield f"| {rows[0]['change']} | {' | '.join(map(_change, rows, blocks))} |"
    yield ""
    faster = [f"{name} (suffixes of {one['suffix']})" for one in blocks for name in one["faster"]]
    yield f"Faster than the usual settings by the whole interval: {', '.join(faster) or 'none'}."
    yield ""


def _change(row: Json, block: Json) -> str:
    decodes = f" ({row['decodes']})" if row["decodes"] != block["decodes"] else ""
    return f"{_interval(row['ratio'], 2)}{decodes}"


SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[Json], Lines]]] = {
    "deviation": (("deviation",), _deviation),
    "scoring": (("llm-scoring",), _scoring),
    "crm": (("crm",), _crm),
    "template": (("template",), _template),
    "settings": (("llm-settings",), _settings),
}
