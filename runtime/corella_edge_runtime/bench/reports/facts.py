"""What every figure of a benchmark depends on, in words: its report ends with it, and a comparison begins with it."""

from __future__ import annotations

from corella_edge_runtime.bench.reports import shown
from corella_edge_runtime.bench.reports.shown import digits, many, per_cent
from corella_edge_runtime.bench.results.result import Result


def provenance(result: Result) -> list[tuple[str, str]]:
    """Everything that a figure depends on: (what, its value)."""
    bundle, data, box, soft, asked_for = (result.bundle, result.data, result.machine, result.software, result.settings)
    before, during = result.quiet.before, result.quiet.during
    cpus = [f"{digits(box.cgroup_cpus)} CPUs"] if box.cgroup_cpus else []
    memory = [f"{many(box.cgroup_memory_bytes / 2**20)} MiB"] if box.cgroup_memory_bytes else []
    size = f", {shown.millions(bundle.llm_parameters)} parameters" if bundle.llm_parameters else ""
    llm = f"{bundle.llm_file or 'yes'}, {bundle.llm_type or 'type not known'}{size}" if bundle.llm else "none"
    build = f"{soft.llama_cpp_compiler or 'compiler not known'}; {soft.llama_cpp_instructions or 'not told'}"
    sent = f"{data.requests:,} of {data.users:,} users, {data.candidates:.3g} candidates each; {data.source}"
    return [
        ("measured", f"{result.created}; {result.measured}"),
        ("bundle", bundle.label), ("manifest sha256", bundle.manifest_sha256 or "not known"),
        ("LLM", llm),
        ("policy and fusion", f"{bundle.policy or 'none'}; {bundle.fusion or 'replace'}"),
        ("requests", sent),
        ("requests sha256", data.sha256),
        ("machine", f"{box.cpu}; {box.cores} cores, {box.memory_bytes / 2**30:.1f} GiB, {box.architecture}"),
        ("system", f"{box.os}, Linux {box.kernel}; clock governor: {box.governor or 'not told'}"),
        ("limits of the control group", ", ".join([*cpus, *memory]) or "none"),
        ("versions", ", ".join(f"{name} {number}" for name, number in soft.versions.items())),
        ("llama.cpp", build),
        ("ONNX Runtime's provider", soft.provider or "not known"),
        ("threads", f"CRM {result.threads.crm or '?'}, LLM {result.threads.llm or '?'} ({result.threads.source})"),
        ("other processes, other virtual machines", f"{per_cent(before.foreign)} and {per_cent(before.steal)} before, "
         f"{per_cent(during.foreign)} and {per_cent(during.steal)} during the run"),
        ("asked for", f"{', '.join(asked_for.thresholds)}; {', '.join(asked_for.scenarios)}; {asked_for.transport}"
         f"{f' to {asked_for.url}' if asked_for.url else ''}; objective {asked_for.slo or 'none'}; budget "
         f"{digits(asked_for.budget_s)} s, {asked_for.repeats} repeats, seed {asked_for.seed}"),
        ("points", f"{len(result.points)} of {result.planned}" + ("" if result.complete else "; interrupted")),
    ]  # fmt: skip
