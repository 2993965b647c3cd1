"""`corella-edge verify` and `inspect`, on whole and on damaged bundles."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.cli import inspect

NAMES = st.sampled_from([
    "name", "version", "bytes", "file", "items", "attributes", "table", "ratio", "auc", "threshold", "nats", "rows",
    "fusion", "rule", "tolerance", "crm", "llm", "models", "recipe", "data",
])  # fmt: skip
FILES = ["catalog.jsonl", "crm.onnx", "llm.gguf", "manifest.json", "manifest.sha256", "prompt.json",
         "reference.jsonl", "routing.json", "sample.jsonl", "schema.json", "verification.json",
         "vocab/genre.json", "vocab/item.json", "vocab/user.json"]  # fmt: skip


def flip(path, place=None):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if place is None else place] ^= 1
    path.write_bytes(raw)


def edit(path, change):
    """Change the decoded lines of a JSON-lines file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_verified(corella, bundle):
    done = corella("verify", bundle)
    assert (done.code, done.err) == (0, "")
    told = done.out.splitlines()
    assert told[0].startswith("files: 12 as exported, ")
    assert told[0].endswith(" MiB")
    assert told[1].startswith("base model (CRM): 64 rows, greatest difference ")
    assert told[2] == "prompts: 63 compared by token ids"
    assert told[3].startswith("LLM: ")
    assert told[4].startswith("fusion: replace, greatest difference ")
    assert told[5] == "tiny@1: verified"


def test_verified_for_programs(corella, bundle, copy):
    done = corella("verify", bundle, "--json")
    found = json.loads(done.out)
    assert (done.code, done.err, found["verified"], found["problems"]) == (0, "", True, [])
    assert (found["bundle"], found["files"]) == ("tiny@1", 12)
    assert found["bytes"] == sum(
        p.stat().st_size for p in bundle.rglob("*") if "manifest" not in p.name and p.is_file()
    )
    assert found["crm"]["rows"] == 64
    assert found["crm"]["difference"] <= found["crm"]["allowed"]
    assert found["llm"]["difference"] <= found["llm"]["allowed"]
    flip(copy / "crm.onnx")
    done = corella("verify", copy, "--json")
    found = json.loads(done.out)
    assert (done.code, found["verified"], len(found["problems"])) == (3, False, 1)
    assert "crm" not in found


def test_a_difference_is_told_to_programs_too(corella, copy):
    edit(copy / "reference.jsonl", change_crm)
    reseal(copy)
    done = corella("verify", copy, "--json")
    found = json.loads(done.out)
    assert (done.code, found["verified"]) == (3, False)
    assert found["problems"][0].startswith("reference.jsonl row 5: the CRM gives")


def test_without_llm_says_so(corella, crm_bundle):
    done = corella("verify", crm_bundle)
    assert done.code == 0
    assert "LLM: not checked: the bundle has no LLM" in done.out


def test_install_without_llama_says_so(bundle):
    code = "import sys; sys.modules['llama_cpp'] = None; from corella_edge.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "verify", bundle], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LLM: not checked: asking the LLM needs the extra [llm]" in done.stdout


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_named(corella, bundle, copy, name):
    present = [str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()]
    assert sorted(present) == FILES
    flip(copy / name)
    done = corella("verify", copy)
    assert done.code == 3
    named = "manifest.json" if name == "manifest.sha256" else name
    assert any(line.startswith(named + ":") for line in done.out.splitlines()), done
    assert done.err.startswith(f"corella-edge: {copy}: damaged")
    assert done.err.count("\n") == 1
    shown = corella("inspect", copy)
    assert (shown.code, shown.err.count("\n")) == (3, 1)
    assert shown.err.startswith(f"corella-edge: {copy}: damaged, not as exported: ")
    assert named in shown.out.partition("\n\n")[0]


def test_every_flip_of_the_manifest_is_noticed(corella, copy):
    size = (copy / "manifest.json").stat().st_size
    for place in range(0, size, size // 40):
        flip(copy / "manifest.json", place)
        assert corella("verify", copy).code == 3
        assert corella("inspect", copy).code == 3
        flip(copy / "manifest.json", place)
    assert corella("verify", copy).code == 0


def test_every_problem_is_listed(corella, copy):
    flip(copy / "crm.onnx")
    (copy / "routing.json").unlink()
    (copy / "llm.gguf").write_bytes(b"short")
    (copy / "notes.txt").write_text("extra")
    (copy / "vocab" / "link.json").symlink_to(copy / "schema.json")
    (copy / "manifest.sha256").unlink()
    done = corella("verify", copy)
    assert done.code == 3
    assert sorted(line.partition(":")[0] for line in done.out.splitlines()) == [
        "crm.onnx", "llm.gguf", "manifest.sha256", "notes.txt", "routing.json", "vocab/link.json",
    ]  # fmt: skip
    assert "5 bytes, " in done.out


def test_not_a_bundle(corella, tmp_path):
    (tmp_path / "file").touch()
    for command in ("verify", "inspect", "tune"):
        for name, code, why in (("none", 2, "there is no such folder"), ("file", 2, "it is a file"),
                                ("", 3, "manifest.json is missing")):  # fmt: skip
            done = corella(command, tmp_path / name)
            assert (done.code, done.err) == (code, f"corella-edge: {tmp_path / name}: not a bundle ({why})\n")


def change_crm(rows):
    rows[4]["crm"] += 2e-5


def change_prompt(rows):
    rows[4]["prompt"][-1] += 1


def change_llm(rows):
    rows[4]["llm"] = (rows[4]["llm"] + 0.5) % 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [(change_crm, "the CRM gives"), (change_prompt, "the prompt's token ids differ"), (change_llm, "the LLM gives")],
)
def test_difference_from_reference(corella, copy, change, message):
    edit(copy / "reference.jsonl", change)
    reseal(copy)
    done = corella("verify", copy)
    assert done.code == 3
    assert f"reference.jsonl row 5: {message}" in done.out
    assert "too different from the reference in 1 place(s)" in done.err


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("reference.jsonl", "", "reference.jsonl: holds no rows"),
        ("reference.jsonl", "{}\n", "reference.jsonl line 1: expected an object with the fields"),
        ("reference.jsonl", "nonsense\n", "reference.jsonl line 1: not JSON"),
        ("verification.json", "{}", 'verification.json: "tolerance" must hold'),
        ("verification.json", '{"tolerance": {"crm": 1e-5, "llm": null}}', 'verification.json: "tolerance" must hold'),
        ("routing.json", "{}", "routing.json: "),
    ],
)
def test_files_that_make_no_sense(corella, copy, name, contents, message):
    (copy / name).write_text(contents)
    reseal(copy)
    done = corella("verify", copy)
    assert done.code == 3
    assert message in done.err
    shown = corella("inspect", copy)
    assert shown.code == (3 if "PROBLEMS" in shown.out else 0)
    assert shown.code == 3 or name != "routing.json"


def test_inspect_says_that_a_licence_is_one():
    about = {"data": {"name": "shop", "licence": "not stated"}}
    assert inspect._data(about, {}) == "shop, licence: not stated"
    assert inspect._data({"data": {"name": "shop"}}, {}) == "shop"


def test_inspect_is_a_page_of_essentials(corella, bundle):
    done = corella("inspect", bundle)
    assert (done.code, done.err) == (0, "")
    page = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines() if "  " in line)
    assert page["bundle"] == "tiny@1, format 1, made 2024-01-01T00:00:00Z"
    assert page["catalogue"] == "40 items with genres, title"
    nats = Bundle.open(bundle).calibration().threshold(0.05)
    assert f"ratio:0.05: the LLM is asked about candidates whose entropy is at least {nats:.4f} nats" in page["routing"]
    assert "llm.gguf" in page["LLM"]
    assert "MiB" in page["files"]
    assert page["sha256"] == json.loads(corella("inspect", bundle, "--json").out)["bundle"]["sha256"]
    assert len(done.out.splitlines()) <= 14
    assert done.out.endswith("--all   shows the rest\n")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["bundle", "files", "fields", "catalogue", "routing", "verification"]), JSON))
def test_a_page_of_a_bundle_that_another_program_wrote_leaves_out_what_it_can_not_tell(parts):
    found = {"problems": [], **parts}
    text = "\n".join([*inspect._page(found, Path("b")), *inspect._everything(found)])
    assert "Traceback" not in text


def test_inspect_all(corella, bundle):
    done = corella("inspect", bundle, "--all")
    assert done.code == 0
    for part in ("name: tiny", "format_version: 1", "recipe: tiny", "created: 2024-01-01", "items: 40",
                 "Will the user like it? Yes or No.", "threshold: ratio:0.05", "tolerance:", "MiB"):  # fmt: skip
        assert part in done.out
    assert re.search(r"^ +0 +never", done.out, re.MULTILINE)
    assert re.search(r"^  nats: 0\.\d{4} nats$", done.out, re.MULTILINE)
    assert "bytes" not in done.out
    assert "PROBLEMS" not in done.out
    fields = done.out.partition("\nfields\n")[2].splitlines()
    assert fields[2].split() == ["history", "sequence", "user", "item", "5", "item", "37"]


def test_inspect_json(corella, bundle):
    found = json.loads(corella("inspect", bundle, "--json").out)
    assert found["problems"] == []
    assert found["bundle"]["name"] == "tiny"
    assert [entry["file"] for entry in found["files"]] == [f for f in FILES if not f.startswith("manifest")]
    assert found["catalogue"] == {"items": 40, "attributes": ["genres", "title"]}
    assert found["prompt"]["example"].endswith(":")
    assert found["verification"]["tolerance"]["crm"] == 1e-5


def test_inspect_shows_what_is_left(corella, copy):
    (copy / "schema.json").write_text("{")
    (copy / "catalog.jsonl").unlink()
    done = corella("inspect", copy, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert {problem.partition(":")[0] for problem in found["problems"]} >= {"schema.json", "catalog.jsonl", "fields"}
    assert found["routing"]["threshold"] == "ratio:0.05"
    assert "fields" not in found


def test_inspect_of_a_bundle_without_llm(corella, crm_bundle):
    assert json.loads(corella("inspect", crm_bundle, "--json").out)["prompt"] is None
