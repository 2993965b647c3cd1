"""Who may import whom, looked at in the sources and in fresh processes; and what happens without an extra."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import corella_edge
from bundles import make_bundle
from corella_edge.cli.common import EXPORT_MODULES
from corella_edge.errors import installing
from door import Door, opened

ROOT = Path(corella_edge.__file__).parents[1]
FOLDERS = {
    "corella_edge": ROOT / "corella_edge",
    "corella_edge_runtime": ROOT / "runtime" / "corella_edge_runtime",
    "corella_edge_export": ROOT / "export" / "corella_edge_export",
}
MSGSPEC = ("msgspec", "typing_extensions")  # which it looks for, and does without
HEAVY = ("torch", "transformers", "tokenizers", "peft", "optimum", "onnx", "gguf", "polars", "tqdm", "safetensors")


def modules(package: str) -> list[str]:
    """Names of all modules of a package."""
    folder = FOLDERS[package]
    files = [path.relative_to(folder.parent).with_suffix("") for path in sorted(folder.rglob("*.py"))]
    return [".".join(f.parts).removesuffix(".__init__") for f in files if f.name != "__main__"]


CORE = [name for name in modules("corella_edge") if not name.startswith("corella_edge.cli")]
CLI = [name for name in modules("corella_edge") if name.startswith("corella_edge.cli")]


def loaded_by(names: list[str]) -> set[str]:
    """Top-level modules outside the standard library that a fresh process loads for `names`."""
    code = (
        "import sys, importlib\n"
        "before = set(sys.modules)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name not in sys.stdlib_module_names}


def test_the_shared_part_needs_numpy_and_msgspec_alone() -> None:
    assert loaded_by(CORE) <= {"corella_edge", "numpy", *MSGSPEC}


def test_the_command_adds_click_alone() -> None:
    assert loaded_by(["corella_edge.cli"]) <= {"corella_edge", "click"}
    # Of the runtime, what a command's options are described with (the scopes of a key) and no more.
    assert loaded_by(CLI) <= {"corella_edge", "corella_edge_runtime", "click", "numpy", *MSGSPEC}


def test_the_runtime_never_loads_the_training_half() -> None:
    loaded = loaded_by([name for name in modules("corella_edge_runtime") if name != "corella_edge_runtime.text"])
    assert {"corella_edge_runtime", "onnxruntime", "llama_cpp", "starlette"} <= loaded
    assert not loaded & {*HEAVY, "matplotlib", "corella_edge_export", "ray"}


def test_the_engine_loads_without_llama_cpp_and_tokenizers() -> None:
    assert not loaded_by(["corella_edge_runtime.engine"]) & {"llama_cpp", "tokenizers"}


def test_a_model_of_words_loads_tokenizers_and_nothing_else_of_the_training_half() -> None:
    assert loaded_by(["corella_edge_runtime.text"]) & set(HEAVY) == {"tokenizers"}


def test_evaluation_needs_nothing_of_the_training() -> None:
    loaded = loaded_by(["corella_edge_export.evaluation.evaluate", "corella_edge_export.evaluation.plots"])
    assert "polars" in loaded
    assert not loaded & {*HEAVY, "matplotlib", "accelerate", "sklearn"} - {"polars"}


def test_the_package_gives_its_engine_when_asked() -> None:
    assert not loaded_by(["corella_edge_runtime"]) & {"numpy", "onnxruntime"}
    code = "from corella_edge_runtime import Engine; print(Engine.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "corella_edge_runtime.engine\n"


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, inside functions too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str, *wanted: str) -> set[str]:
    """Files of a package that import one of `wanted` or something below it, as paths inside the package."""
    folder = FOLDERS[package]
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for name in imports(path)
        if any(name == w or name.startswith(f"{w}.") for w in wanted)
    }


def test_imports_go_one_way() -> None:
    core = importers("corella_edge", "corella_edge_runtime", "corella_edge_export")
    assert all(path.startswith("cli/") for path in core)
    assert importers("corella_edge_runtime", "corella_edge_export", "corella_edge.cli") == set()
    assert importers("corella_edge_export", "corella_edge.cli", "corella_edge_runtime.server") == set()


# Folders and files of the exporter → what of it they import, and nothing else of it.
ARROWS = {
    "data": {"toml_text"},
    "toml_text": set(),
    "recipe_keys": {"toml_text"},
    "crm": {"data", "recipe_keys"},
    "llm": {"data", "recipe_keys"},
    "recipe": {"crm", "llm", "recipe_keys", "toml_text"},
    "generic": {"crm", "data", "recipe"},
    "text": {"crm", "data", "llm", "recipe"},
    "training": {"data", "crm", "llm", "recipe", "text"},
    "evaluation": {"data"},
    "memory": set(),
    "bundling": {"data", "crm", "llm", "text", "training", "evaluation", "memory"},
    "demo": {"data", "recipe", "training", "bundling", "evaluation"},
    "report": {"training"},
    "study": {"crm", "data", "llm", "recipe", "training", "evaluation", "report"},
}


# The same of the runtime; what names types alone counts, too.
RUNTIME_ARROWS = {
    "box": set(),
    "attributes": set(),
    "read_events": set(),
    "crm": {"read_events"},
    "text": {"crm"},
    "products": {"crm"},
    "showcase": set(),
    "machine": {"box"},
    "store": {"machine"},
    "site": {"attributes", "engine", "reference"},
    "llm": {"box"},
    "setup": {"llm", "machine"},
    "opening": {"llm", "setup"},
    "slate": set(),
    "decisions": set(),
    "held_target": set(),
    "control": {"held_target", "llm"},
    "routing_inputs": set(),
    "router": {"control", "held_target", "llm", "routing_inputs"},
    "draft": {"llm", "router", "slate"},
    "engine": {
        "attributes",
        "control",
        "crm",
        "draft",
        "llm",
        "opening",
        "products",
        "router",
        "routing_inputs",
        "setup",
        "showcase",
        "slate",
    },
    "reference": {"engine"},
    "batch": {"decisions", "engine"},
    "partitions": {"batch", "engine"},
    "drawing": set(),
    "document": set(),
    "charts": {"drawing"},
    "calibrate": {"charts", "document", "drawing", "engine", "partitions", "site"},
    "bench": {"box", "charts", "crm", "document", "draft", "drawing", "engine", "llm", "machine", "reference"},
    "tune": {"bench", "crm", "llm", "machine", "setup"},
    "doctor": {"box", "llm", "machine"},
    "server": {"box", "decisions", "draft", "engine", "llm", "machine", "site", "slate", "store"},
}
# And of the core, but for the commands, which import anything when they run.
CORE_ARROWS = {
    "errors": set(),
    "metrics": set(),
    "ranking": {"metrics"},
    "judge": {"metrics", "ranking"},
    "selection": {"messages"},
    "request": {"messages", "selection"},
    "adapters": {"errors", "request", "selection"},
    "atomic": {"errors"},
    "catalog": {"errors", "formats"},
    "formats": {"errors"},
    "history": {"errors"},
    "messages": {"errors", "formats"},
    "routing": {"adapters", "errors", "history", "judge", "metrics", "request"},
    "features": {"catalog", "errors", "formats", "request"},
    "prompt": {"catalog", "errors", "features", "request"},
    "request_json": {"request"},
    "stopping": set(),
    "request_message": {"adapters", "errors", "formats", "history", "messages", "request", "routing", "selection"},
    "json_lines": {"errors", "formats", "request", "request_message"},
    "labelled_files": {"errors", "formats", "json_lines", "routing"},
    "decision_log": {"errors", "formats", "history", "json_lines", "messages", "routing"},
    "scores": {"request", "routing"},
    "bundle": {"adapters", "atomic", "catalog", "errors", "features", "formats", "prompt", "routing"},
}


def arrows(package: str) -> dict[str, set[str]]:
    """What each folder or file at the top of a package imports of it, as the sources say."""
    found: dict[str, set[str]] = {}
    folder = FOLDERS[package]
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        names = [name.split(".") for name in imports(path)]
        found.setdefault(own, set()).update(n[1] for n in names if n[0] == folder.name and n[1:] and n[1] != own)
    return {name: of for name, of in found.items() if name not in ("__init__", "__main__", "cli")}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("corella_edge", CORE_ARROWS), ("corella_edge_runtime", RUNTIME_ARROWS), ("corella_edge_export", ARROWS)],
)
def test_folders_import_downwards(package: str, allowed: dict[str, set[str]]) -> None:
    assert arrows(package) == allowed
    tuple(TopologicalSorter(allowed).static_order())  # a circle is an error


def test_nothing_that_ships_imports_the_study_or_the_report() -> None:
    research = ("corella_edge_export.study", "corella_edge_export.report")
    assert {path.partition("/")[0] for path in importers("corella_edge_export", *research)} <= {"study", "report"}
    assert importers("corella_edge", *research) == {f"cli/{name}.py" for name in ("train", "demo", "study", "report")}


def test_a_recipe_and_the_list_of_stages_are_light() -> None:
    light = ["corella_edge_export.recipe", "corella_edge_export.training.stage", "corella_edge_export.report"]
    assert not loaded_by(light) & {*HEAVY, "matplotlib", "accelerate"}


# Each room of a benchmark, and those it may import.
BENCH = "corella_edge_runtime.bench"
BENCH_ROOMS = {
    "results": set(),
    "load": {"results"},
    "measure": {"load", "results"},
    "reports": {"results"},
    "comparing": {"reports", "results"},
    "": {"measure", "results"},
}
# Each room of the LLM side, and those it may import; a folder's own modules are one room.
LLM = "corella_edge_runtime.llm"
LLM_ROOMS = {
    "contract": set(),
    "llama": {"contract"},
    "llama.selftest": {"llama"},
    "backends.remote": {"contract"},
    "backends": {"contract", "llama", "backends.remote"},
    "backends.process": {"contract", "llama", "backends"},
    "": {"contract", "llama", "backends"},
}


def room_of(module: str, side: str, rooms: dict[str, set[str]]) -> str:
    """The room that a module of a side, or a name in it, belongs to: the deepest of the table."""
    inside = module.removeprefix(side).removeprefix(".")
    return max((room for room in rooms if f"{inside}.".startswith(f"{room}." if room else "")), key=len)


def rooms_imported(side: str, rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """What each room of a side imports of the others, as the sources say."""
    folder = FOLDERS["corella_edge_runtime"] / side.rpartition(".")[2]
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in folder.rglob("*.py"):
        room = room_of(".".join([side, *path.relative_to(folder).parent.parts]), side, rooms)
        inside = (name for name in imports(path) if f"{name}.".startswith(f"{side}."))
        found[room] |= {room_of(name, side, rooms) for name in inside} - {room}
    return found


def test_the_rooms_of_a_benchmark_import_one_way() -> None:
    found = rooms_imported(BENCH, BENCH_ROOMS)
    assert {room: seen - {""} for room, seen in found.items()} == BENCH_ROOMS
    tuple(TopologicalSorter(BENCH_ROOMS).static_order())  # a circle is an error
    top = {path.name for path in (FOLDERS["corella_edge_runtime"] / "bench").glob("*.py")}
    assert not importers("corella_edge_runtime", f"{BENCH}.run") - {f"bench/{name}" for name in top}


def test_the_rooms_of_the_llm_side_import_one_way() -> None:
    found = rooms_imported(LLM, LLM_ROOMS)
    assert found["backends.process"] >= {"contract", "backends"}  # imports are seen
    assert {room: seen - LLM_ROOMS[room] for room, seen in found.items() if seen - LLM_ROOMS[room]} == {}
    # What machine/ and setup.py know of the LLM lies below what imports them.
    upper = importers("corella_edge_runtime", "corella_edge_runtime.machine", "corella_edge_runtime.setup")
    assert {path for path in upper if path.startswith("llm/")} == set()
    lower = importers("corella_edge_runtime", *(f"{LLM}.{name}" for name in ("asking", "guard", "backends")))
    assert not {path for path in lower if path.startswith(("machine/", "setup.py"))}


def test_each_heavy_dependency_is_known_in_one_place() -> None:
    assert importers("corella_edge_runtime", "onnxruntime") == {"crm.py"}
    assert all(path.startswith("llm/") for path in importers("corella_edge_runtime", "llama_cpp"))
    served = importers("corella_edge_runtime", "starlette", "uvicorn", "prometheus_client")
    assert all(path.startswith("server/") for path in served)
    assert all(path.startswith("store/") for path in importers("corella_edge_runtime", "sqlite3"))
    assert importers("corella_edge_runtime", "pyarrow") == {"partitions/parquet.py"}
    assert importers("corella_edge_runtime", "ray") == {"partitions/on_ray.py"}
    assert importers("corella_edge", "pyarrow", "ray") | importers("corella_edge_export", "pyarrow", "ray") == set()
    assert importers("corella_edge_runtime", "tokenizers") == {"text.py"}
    assert importers("corella_edge_runtime", *(name for name in HEAVY if name != "tokenizers")) == set()
    assert importers("corella_edge_export", "onnxruntime", "llama_cpp") == set()
    assert importers("corella_edge", "onnxruntime", "llama_cpp", *HEAVY) == set()
    assert importers("corella_edge", "minisign") == {"bundle/signature.py"}
    assert importers("corella_edge_export", "huggingface_hub") == {"llm/hub.py"}
    assert importers("corella_edge_runtime", "huggingface_hub") | importers("corella_edge", "huggingface_hub") == set()
    assert importers("corella_edge_runtime", "minisign") | importers("corella_edge_export", "minisign") == set()


def processor_seconds(*command: str | Path) -> float:
    """Of a process that ends well; what else the machine does is no part of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick() -> None:
    """Against Python with click and nothing else, by turns: whatever slows the one slows the other."""
    program = Path(sys.executable).with_name("corella-edge")
    assert "benchmark" in subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    turns = [
        (processor_seconds(program, "--help"), processor_seconds(sys.executable, "-c", "import click"))
        for _ in range(5)
    ]
    own, least = map(min, zip(*turns, strict=True))
    assert own < 2.0 * least


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("imports") / "bundle")


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with opened(*CORE) as found:
        yield found


@pytest.mark.parametrize(
    ("missing", "extra", "args"),
    [
        ("polars", "export", "prepare synthetic --out OUT"),
        ("polars", "export", "init BUNDLE --out OUT"),
        ("gguf", "export", "export OUT --out OUT"),
        ("onnxruntime", "cpu", "export OUT --out OUT"),
        ("llama_cpp", "llm", "export OUT --out OUT"),
        ("torch", "export", "demo --out OUT"),
        *((module, "export", "train ml-1m-tiny --data OUT --out OUT") for module in EXPORT_MODULES),
        ("polars", "report", "evaluate BUNDLE --data OUT"),
        ("onnxruntime", "cpu", "evaluate BUNDLE --data OUT"),
        ("onnxruntime", "cpu", "score BUNDLE BUNDLE/requests.jsonl --out OUT"),
        ("onnxruntime", "cpu", "verify BUNDLE"),
        ("onnxruntime", "cpu", "benchmark BUNDLE --out OUT"),
        ("llama_cpp", "llm", "score BUNDLE BUNDLE/requests.jsonl --require-llm --out OUT"),
        ("pyarrow", "parquet", "score BUNDLE TABLE --out OUT"),
        ("ray", "ray", "score BUNDLE TABLE --engine ray --out OUT"),
        ("minisign", "sign", "verify BUNDLE --trust KEY"),
        ("minisign", "sign", "sign BUNDLE --key OUT"),
        ("minisign", "sign", "sign --new-key OUT"),
        ("starlette", "serve", "serve BUNDLE"),
        ("uvicorn", "serve", "serve BUNDLE"),
        ("prometheus_client", "serve", "serve BUNDLE"),
    ],
)
def test_a_missing_extra_is_named(
    missing: str, extra: str, args: str, bundle: Path, door: Door, tmp_path: Path
) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"user": {"id": "u1"}, "candidates": [{"item": "i1"}]}\n')
    table = tmp_path / "table/a.parquet"
    table.parent.mkdir()
    table.touch()
    words = args.replace("BUNDLE/requests.jsonl", str(requests)).replace("BUNDLE", str(bundle))
    words = words.replace("TABLE", str(table.parent))
    words = words.replace("OUT", str(tmp_path / "out"))
    ((code, said),) = door.run([{"args": words.split(), "missing": [missing]}])
    assert code == 5, said
    assert installing(extra) in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_every_package_of_the_extra_is_looked_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    packages = {re.split(r"[<>=]", line)[0].removesuffix("-onnx") for line in extras["export"]}
    assert packages == set(EXPORT_MODULES)


LIGHT = (*HEAVY, "matplotlib", "sklearn", "pyarrow", "ray")


def test_what_needs_no_extra_works_without(bundle: Path, door: Door) -> None:
    missing = [*LIGHT, "onnxruntime", "llama_cpp", "starlette", "uvicorn"]
    ((code, said),) = door.run([{"args": ["inspect", bundle], "missing": missing}])
    assert code == 0, said


def test_the_light_install_verifies_and_scores(bundle: Path, door: Door, tmp_path: Path) -> None:
    requests, told, found = (tmp_path / name for name in ("requests.jsonl", "verified", "out.jsonl"))
    requests.write_text('{"user": {"id": "u1"}, "candidates": [{"item": "i1"}], "threshold": "ratio:1"}\n')
    scoring, without = ["score", bundle, requests, "--out", found], [*LIGHT, "llama_cpp"]
    ((code, said),) = door.run([{"args": [*scoring, "--llm-threads", "1"], "missing": LIGHT}])
    assert code == 0, said
    assert '"reason":"ratio"' in found.read_text()
    ((code, said),) = door.run([{"args": [*scoring, "--force"], "missing": without}])
    assert code == 0, said
    assert "[llm]" in said
    assert '"reason":"no_llm"' in found.read_text()
    ((code, said),) = door.run([{"args": ["verify", bundle], "missing": without, "streams": {"1": str(told)}}])
    assert code == 0, said
    assert "[llm]" in told.read_text() + said
