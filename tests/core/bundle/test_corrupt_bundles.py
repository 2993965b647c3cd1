"""A corpus of bundles from elsewhere that are wrong: each is refused with a message that names the file.

Most are sealed again, as a forger would: their hashes are right, and a parser sees them. `verify`, `inspect` and
`Engine.open` run in this process, so that an attack that ends the process ends the test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundles import make_bundle, reseal
from corella_edge.bundle import artefact as bundles
from corella_edge.bundle import files, schema_files
from corella_edge.bundle.artefact import MANIFEST, SEAL, Bundle, seal_of
from corella_edge.cli import main
from corella_edge.errors import BundleError
from corella_edge_runtime import crm as crm_module
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.llama import binding

Attack = Callable[[Path], Any]
DEEP = b"[" * 100_000
HUGE = b"9" * 5_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def refusals(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `Engine.open` and `verify` say; `inspect` must be able to show whatever is left."""
    with pytest.raises(BundleError) as caught:
        Engine.open(root, llm_threads=1, tuned=False)
    said = [str(caught.value)]
    for command, codes in (("verify", {3}), ("inspect", {0, 3})):
        with pytest.raises(SystemExit) as left:
            main([command, str(root)])
        out, err = capsys.readouterr()
        assert (left.value.code or 0) in codes
        assert "Traceback" not in out + err
        if command == "verify":
            assert err.startswith("corella-edge: ")
            assert err.count("\n") == 1
            said.append(out + err)
    return said


def write(name: str, contents: bytes) -> Attack:
    return lambda root: (root / name).write_bytes(contents)


def swap(name: str, old: bytes, new: bytes) -> Attack:
    """Replace the first `old` of a file, which must be there."""

    def attack(root: Path) -> None:
        raw = (root / name).read_bytes()
        assert old in raw
        (root / name).write_bytes(raw.replace(old, new, 1))

    return attack


def edit(name: str, *place: Any, to: Any) -> Attack:
    """Set one value of a JSON file."""

    def attack(root: Path) -> None:
        data = json.loads((root / name).read_text())
        inner = data
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = to
        (root / name).write_text(json.dumps(data))

    return attack


# What only a parser can find wrong: file → (what is done, what the message says beside the file's name).
SEALED: dict[str, tuple[str, Attack, str]] = {
    "schema: no object": ("schema.json", write("schema.json", b"[]"), "expected an object"),
    "schema: deep nesting": ("schema.json", write("schema.json", DEEP), "nested too deeply"),
    "schema: endless digits": ("schema.json", swap("schema.json", b'"length": 5', b'"length": ' + HUGE), "not JSON"),
    "schema: a length that fills the memory": (
        "schema.json", edit("schema.json", "fields", 1, "length", to=10**12), "a length that is not 1 to 10000"),
    "schema: a length below 1": (
        "schema.json", edit("schema.json", "fields", 1, "length", to=-1), "a length that is not 1 to 10000"),
    "schema: a float for a length": ("schema.json", edit("schema.json", "fields", 1, "length", to=1e300), "wrong type"),
    "schema: unknown kind": ("schema.json", edit("schema.json", "fields", 0, "kind", to="code"), "unknown kind"),
    "schema: UTF-16": ("schema.json", write("schema.json", '{"fields": []}'.encode("utf-16")), "not JSON"),
    "schema: a name twice": ("schema.json", write("schema.json", b'{"fields": [], "fields": []}'), "occurs twice"),
    "vocabulary: a path": (
        "schema.json", edit("schema.json", "fields", 0, "vocab", to="../../../etc/passwd"), "not a name of a vocab"),
    "vocabulary: a value twice": ("vocab/item.json", write("vocab/item.json", b'["a", "a"]'), "occurs twice"),
    "vocabulary: numbers": ("vocab/item.json", write("vocab/item.json", b"[1, 2]"), "expected a list of texts"),
    "vocabulary: of another size": ("vocab/item.json", write("vocab/item.json", b'["a"]'), "its table for 'item'"),
    "catalogue: deep nesting": ("catalog.jsonl", write("catalog.jsonl", DEEP + b"\n"), "line 1: not JSON"),
    "catalogue: an item twice": ("catalog.jsonl", write("catalog.jsonl", b'{"item": "a"}\n' * 2), "occurs twice"),
    "catalogue: endless digits": ("catalog.jsonl", swap("catalog.jsonl", b'"Film 1"', HUGE), "line 2: not JSON"),
    "catalogue: no item": ("catalog.jsonl", write("catalog.jsonl", b'{"title": "a"}\n'), "line 1: expected an object"),
    "routing: deep nesting": ("routing.json", write("routing.json", DEEP), "nested too deeply"),
    "routing: a share above 1": ("routing.json", edit("routing.json", "threshold", to="ratio:7"), "not a share"),
    "routing: a threshold that is none": ("routing.json", edit("routing.json", "threshold", to="1e999"), "not an ent"),
    "routing: shares beyond 1": (
        "routing.json", edit("routing.json", "calibration", to={"shares": [0, 1e300], "thresholds": [None, 0.1]}),
        "shares must go from 0 to 1"),
    "routing: thresholds beyond ln 2": (
        "routing.json", edit("routing.json", "calibration", to={"shares": [0, 1], "thresholds": [None, 99.0]}),
        "thresholds down to one from 0 to 0.6931"),
    "routing: nan": (
        "routing.json", edit("routing.json", "calibration", to={"shares": [0, 1], "thresholds": [None, float("nan")]}),
        "wrong"),
    "routing: a rule of fusion that is none": (
        "routing.json", edit("routing.json", "fusion", to={"rule": "vote"}), "fusion.rule: 'vote' is not one of"),
    "routing: a weight without end": (
        "routing.json", edit("routing.json", "fusion", to={"rule": "stack", "weights": [0, 0, float("inf")]}),
        "fusion.weights: expected three numbers"),
    "prompt: a token id below 0": ("prompt.json", edit("prompt.json", "tokens", "yes", to=-1), "token id -1 is"),
    "prompt: a token id beyond the vocabulary": (
        "prompt.json", edit("prompt.json", "tokens", "no", to=261), "token id 261 is outside the vocabulary"),
    "prompt: a token id of 64 bits": ("prompt.json", edit("prompt.json", "tokens", "bos", to=2**63), "is outside"),
    "prompt: a token id that is no number": ("prompt.json", edit("prompt.json", "tokens", "yes", to=1.5), "tokens"),
    "prompt: a width that fills the memory": (
        "prompt.json", edit("prompt.json", "template", "item", to="{title:>9999999999}"), "only a name may stand"),
    "prompt: a rating of such a width": (
        "prompt.json", edit("prompt.json", "template", "rating", to="{:>9999999999}"), "only a name may stand"),
    "prompt: an attribute of a value": (
        "prompt.json", edit("prompt.json", "template", "item", to="{title} {title.__class__}"), "prompt.item"),
    "prompt: an endless text": (
        "prompt.json", edit("prompt.json", "template", "instruction", to="x" * 10**6), "more than 20000 characters"),
    "prompt: an endless history": (
        "prompt.json", edit("prompt.json", "template", "history_lines", to=10**18), "history_lines must be 0 to 20000"),
    "prompt: deep nesting": ("prompt.json", write("prompt.json", b'{"a":' * 100_000), "nested too deeply"),
    "crm: empty": ("crm.onnx", write("crm.onnx", b""), "ONNX Runtime cannot load it"),
    "crm: no protobuf": ("crm.onnx", write("crm.onnx", b"\xff" * 1000), "ONNX Runtime cannot load it"),
    "crm: a GGUF": ("crm.onnx", lambda root: shutil.copyfile(root / "llm.gguf", root / "crm.onnx"), "cannot load it"),
    "llm: empty": ("llm.gguf", write("llm.gguf", b""), "not a model that this release can run"),
    "llm: an ONNX file": ("llm.gguf", lambda root: shutil.copyfile(root / "crm.onnx", root / "llm.gguf"), "not GGUF"),
    "llm: text": ("llm.gguf", write("llm.gguf", b"GGUF, they say"), "its head is cut off"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "attack", "message"), SEALED.values(), ids=SEALED.keys())
def test_a_sealed_file_that_makes_no_sense_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], file: str, attack: Attack, message: str
) -> None:
    attack(root)
    reseal(root)
    for said in refusals(root, capsys):
        assert file in said
        assert message in said


def test_an_oversized_vocabulary_is_not_read(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_files, "MAX_VOCABULARY_BYTES", 100)
    for said in refusals(root, capsys):
        assert "vocab/item.json: larger than 100 bytes" in said


def test_an_oversized_json_file_is_not_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (root / "routing.json").open("r+b") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    reseal(root)
    for said in refusals(root, capsys):
        assert f"routing.json: larger than {files.MAX_JSON_BYTES} bytes" in said


ONLY_VERIFIED: dict[str, tuple[Attack, str]] = {
    "a tolerance that allows all": (
        edit("verification.json", "tolerance", to={"crm": 1e999, "llm": 1e999}), 'verification.json: "tolerance" must'),
    "verification: deep nesting": (write("verification.json", DEEP), "verification.json: nested too deeply"),
    "reference: deep nesting": (write("reference.jsonl", DEEP), "reference.jsonl: the array that it begins with"),
    "reference: endless digits": (write("reference.jsonl", HUGE), "reference.jsonl line 1: a number has too many"),
    "reference: token ids that are none": (
        swap("reference.jsonl", b'"prompt": [', b'"prompt": [1e5, '), "reference.jsonl line 1: prompt: expected"),
    "reference: token ids beyond the vocabulary": (
        swap("reference.jsonl", b'"prompt": [', b'"prompt": [-5, 99999999999999, '), "row 1: the prompt's token ids"),
    "another begin token": (edit("prompt.json", "tokens", "bos", to=7), "the prompt's token ids differ"),
    "another catalogue": (write("catalog.jsonl", b'{"item": "a"}\n'), "reference.jsonl row 1: "),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "message"), ONLY_VERIFIED.values(), ids=ONLY_VERIFIED.keys())
def test_what_only_the_reference_rows_tell_is_found_by_verify(
    root: Path, capsys: pytest.CaptureFixture[str], attack: Attack, message: str
) -> None:
    attack(root)
    reseal(root)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(root), "--llm-threads", "1"])
    out, err = capsys.readouterr()
    assert (left.value.code, "Traceback" in out + err) == (3, False)
    assert message in out + err


# The manifest: changed and sealed by hand, for `seal` would list what is there.


def forge(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((root / MANIFEST).read_bytes())
    found = change(data)
    raw = found if isinstance(found, bytes) else json.dumps(data).encode()
    (root / MANIFEST).write_bytes(raw)
    (root / SEAL).write_bytes(seal_of(raw))


def outside(name: str) -> Attack:
    """List a file outside the bundle that is there and has the listed hash."""

    def attack(root: Path) -> None:
        target = root.parent / "outside.json"
        target.write_bytes(b"{}")
        listed = {"sha256": bundles.sha256(target), "size": 2}
        forge(root, lambda data: data["files"].update({name.replace("OUTSIDE", str(target)): listed}))

    return attack


def twice(data: dict[str, Any]) -> bytes:
    entry = json.dumps({"crm.onnx": {"sha256": "0" * 64, "size": 0}})[1:-1]
    return json.dumps(data).replace('"files": {', f'"files": {{{entry}, ').encode()


MANIFESTS: dict[str, tuple[Attack, str]] = {
    "another format": (lambda root: forge(root, lambda data: data.update(format_version=2)), "format_version 2"),
    "a path upwards": (outside("../outside.json"), "'../outside.json' is not a file name"),
    "a path up from below": (outside("vocab/../../outside.json"), "is not a file name of a bundle"),
    "an absolute path": (outside("OUTSIDE"), "is not a file name of a bundle"),
    "a backslash": (outside("..\\outside.json"), "is not a file name of a bundle"),
    "a NUL": (outside("crm.onnx\0.json"), "is not a file name of a bundle"),
    "a line feed": (outside("crm.onnx\n"), "is not a file name of a bundle"),
    "a name twice": (lambda root: forge(root, twice), "the name 'crm.onnx' occurs twice"),
    "deep nesting": (lambda root: forge(root, lambda _: DEEP), "nested too deeply"),
    "deep nesting within": (
        lambda root: forge(root, lambda data: json.dumps(data).replace('"about": {', '"about": {"a": ' + "[" * 9999, 1)
                           .encode()), "manifest.json: "),
    "endless digits": (lambda root: forge(root, lambda _: b'{"format_version": ' + HUGE + b"}"), "manifest.json: not"),
    "an infinite size": (
        lambda root: forge(root, lambda data: data["files"]["crm.onnx"].update(size=1e999)), "lacks a proper sha256"),
    "a size of 400 digits": (
        lambda root: forge(root, lambda data: data["files"]["crm.onnx"].update(size=10**400)), "crm.onnx: "),
    "a size that is not the file's": (
        lambda root: forge(root, lambda data: data["files"]["crm.onnx"].update(size=1)), "bytes, 1 expected"),
    "UTF-16": (
        lambda root: forge(root, lambda data: json.dumps(data).encode("utf-16")), "manifest.json: not JSON"),
    "no object": (lambda root: forge(root, lambda _: b"[]"), "manifest.json: expected an object"),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "message"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_forged_manifest_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], attack: Attack, message: str
) -> None:
    attack(root)
    for said in refusals(root, capsys):
        assert message in said


# What is no plain file.


def link(root: Path, name: str) -> None:
    (root / name).rename(root.parent / "moved")
    (root / name).symlink_to(root.parent / "moved")


def endless_link(root: Path, name: str) -> None:
    (root / name).unlink()
    (root / name).symlink_to(root / name)


def pipe(root: Path, name: str) -> None:
    (root / name).unlink()
    os.mkfifo(root / name)


def local_socket(root: Path, name: str) -> None:
    (root / name).unlink()
    here = Path.cwd()
    os.chdir((root / name).parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(Path(name).name)
    finally:
        os.chdir(here)


def device(root: Path, name: str) -> None:
    (root / name).unlink()
    try:
        os.mknod(root / name, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making a device needs root")


@pytest.mark.parametrize("replace", [link, endless_link, pipe, local_socket, device])
@pytest.mark.parametrize("name", ["crm.onnx", "llm.gguf", "vocab/item.json", "reference.jsonl"])
def test_what_is_no_plain_file_is_never_opened(
    root: Path, capsys: pytest.CaptureFixture[str], replace: Callable[[Path, str], None], name: str
) -> None:
    replace(root, name)
    for said in refusals(root, capsys):
        assert f"{name}: not a regular file" in said or f"damaged, not as exported: {name}" in said


@pytest.mark.parametrize("replace", [pipe, local_socket, device])
@pytest.mark.parametrize("name", [MANIFEST, SEAL])
def test_a_manifest_or_seal_that_is_no_plain_file_is_never_opened(
    root: Path, capsys: pytest.CaptureFixture[str], replace: Callable[[Path, str], None], name: str
) -> None:
    replace(root, name)
    for said in refusals(root, capsys):
        assert name in said


# Damage: nothing but hashes is computed of a file that is not as listed.

FILES = ["catalog.jsonl", "crm.onnx", "llm.gguf", "prompt.json", "reference.jsonl", "routing.json", "sample.jsonl",
         "schema.json", "verification.json", "vocab/genre.json", "vocab/item.json", "vocab/user.json"]  # fmt: skip


def flip(raw: bytes) -> bytes:
    place = len(raw) // 2
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", FILES)
def test_no_parser_sees_a_bundle_with_a_damaged_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[bytes], bytes]
) -> None:
    assert sorted(Bundle.open(root).manifest.files) == FILES
    path = root / name
    path.write_bytes(damage(path.read_bytes()))

    def reached(*_: Any, **__: Any) -> Any:
        raise AssertionError("a parser was reached")

    monkeypatch.setattr(crm_module.ort, "InferenceSession", reached)
    monkeypatch.setattr(binding.C, "llama_model_load_from_file", reached)
    monkeypatch.setattr(bundles, "read_json", reached)
    monkeypatch.setattr(bundles, "read_schema", reached)
    monkeypatch.setattr("corella_edge.catalog.Catalog.read", reached)
    monkeypatch.setattr("corella_edge_runtime.opening.check_gguf", reached)
    with pytest.raises(BundleError, match=re.escape(f"{name}: ")):
        Engine.open(root, llm_threads=1, tuned=False)


# Foreign models whose files are whole.


def remake_gguf(
    root: Path, architecture: str = "llama", values: Mapping[str, Any] | None = None, drop: str = "",
    tensors: Callable[[str, Any], Any] = lambda name, values: values,
) -> None:  # fmt: skip
    """Rewrite llm.gguf with other values, without some, or with other tensors."""
    source, target = root / "llm.gguf", root.parent / "remade.gguf"
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture")) or key == drop:
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, (values or {}).get(key, field.contents()), field.types[0], inner)
    for tensor in reader.tensors:
        changed = tensors(tensor.name, np.array(tensor.data))
        if changed is not None:
            writer.add_tensor(tensor.name, changed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.replace(source)


def words(root: Path) -> list[str]:
    found: list[str] = gguf.GGUFReader(root / "llm.gguf").fields["tokenizer.ggml.tokens"].contents()
    return found


def other_order(root: Path) -> None:
    """The same words under other ids."""
    remake_gguf(root, values={"tokenizer.ggml.tokens": [*words(root)[::-1]]})


def with_value(key: str, value: Any) -> Attack:
    return lambda root: remake_gguf(root, values={key: value})


def other_kind(root: Path) -> None:
    remake_gguf(root, tensors=lambda name, values: values.astype(np.int32) if "attn_q" in name else values)


def cut_tensor(root: Path) -> None:
    raw = (root / "llm.gguf").read_bytes()
    (root / "llm.gguf").write_bytes(raw[:-2000])


FOREIGN_GGUF: dict[str, tuple[Attack, str]] = {
    "another architecture": (lambda root: remake_gguf(root, "gpt2"), "its architecture is 'gpt2'"),
    "another vocabulary": (other_order, "' Yes' is the tokens"),
    "a vocabulary of another size": (
        with_value("tokenizer.ggml.tokens", ["a", "b", "c"]), "not as many token_type entries as tokens"),
    "two tokens alike": (
        lambda root: remake_gguf(root, values={"tokenizer.ggml.tokens": ["a", *words(root)[1:]]}), "tokens are alike"),
    "an empty token and its name": (
        lambda root: remake_gguf(root, values={"tokenizer.ggml.tokens": ["", "[EMPTY_0]", *words(root)[2:]]}), "alike"),
    "a tokenizer of another kind": (with_value("tokenizer.ggml.model", "bert"), "a tokenizer of the kind 'bert'"),
    "a sentencepiece tokenizer without bytes": (
        with_value("tokenizer.ggml.model", "llama"), "it lacks a token for each byte"),
    "an unknown pre-tokenizer": (with_value("tokenizer.ggml.pre", "mystery"), "unknown pre-tokenizer type"),
    "no blocks": (with_value("llama.block_count", 0), "its block_count is 0"),
    "more blocks than there can be": (with_value("llama.block_count", 4000), "its block_count is 4000"),
    "more blocks than there are": (with_value("llama.block_count", 2), "llama.cpp cannot load it"),
    "no heads": (with_value("llama.attention.head_count", 0), "its attention.head_count is 0"),
    "heads that do not fit": (with_value("llama.attention.head_count_kv", 3), "do not fit each other"),
    "a head of another size": (with_value("llama.rope.dimension_count", 8), "do not fit each other"),
    "another width": (with_value("llama.embedding_length", 64), "do not fit each other"),
    "a number out of range": (with_value("llama.attention.layer_norm_rms_epsilon", -1.0), "is out of range"),
    "no number of blocks": (lambda root: remake_gguf(root, drop="llama.block_count"), "it lacks llama.block_count"),
    "a tensor of integers": (other_kind, "is of the type 26"),
    "a missing tensor": (
        lambda root: remake_gguf(root, tensors=lambda name, values: None if "ffn_up" in name else values), "ffn_up"),
    "a tensor of another shape": (
        lambda root: remake_gguf(root, tensors=lambda name, values: values[:-1] if "ffn_up" in name else values),
        "ffn_up"),
    "a truncated tensor": (cut_tensor, "is not within the file bounds"),
    "a head that is cut off": (lambda root: os.truncate(root / "llm.gguf", 3000), "its head is cut off"),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "message"), FOREIGN_GGUF.values(), ids=FOREIGN_GGUF.keys())
def test_a_foreign_gguf_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], attack: Attack, message: str
) -> None:
    attack(root)
    reseal(root)
    for said in refusals(root, capsys):
        assert "llm.gguf: " in said
        assert message in said


def remake_onnx(change: Callable[[onnx.ModelProto], Any]) -> Attack:
    def attack(root: Path) -> None:
        model = onnx.load(root / "crm.onnx")
        change(model)
        (root / "crm.onnx").write_bytes(model.SerializeToString())

    return attack


def rename_input(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["thing" if name == "item" else name for name in node.input]
    next(entry for entry in model.graph.input if entry.name == "item").name = "thing"


def as_doubles(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["wide"], to=TensorProto.DOUBLE))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["n"]))


def one_for_all(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ReduceSum", ["logits"], ["sum"], keepdims=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]))


def two_outputs(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["n"]))


def short_table(model: onnx.ModelProto) -> None:
    """Smaller than its own metadata says: the highest index would be outside."""
    table = next(entry for entry in model.graph.initializer if entry.name == "table_item")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:-1], "table_item"))


def not_a_number(model: onnx.ModelProto) -> None:
    table = next(entry for entry in model.graph.initializer if entry.name == "table_item")
    values = np.array(numpy_helper.to_array(table))
    values[-1] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, "table_item"))


def other_type(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.graph.input if entry.name == "item")
    entry.type.tensor_type.elem_type = TensorProto.INT32


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Shell"


def file_outside(model: onnx.ModelProto) -> None:
    """A table that is read from a file which is not the bundle's."""
    table = next(entry for entry in model.graph.initializer if entry.name == "table_item")
    size = len(table.raw_data)
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../outside.bin"), ("offset", "0"), ("length", str(size))):
        entry = table.external_data.add()
        entry.key, entry.value = key, value


FOREIGN_ONNX: dict[str, tuple[Attack, str]] = {
    "another input": (remake_onnx(rename_input), "its inputs differ from schema.json in ['item', 'thing']"),
    "an input of another type": (remake_onnx(other_type), "cannot"),
    "no metadata": (remake_onnx(lambda model: model.ClearField("metadata_props")), "does not fit vocab/"),
    "float64 out": (remake_onnx(as_doubles), "gives float64 (2,) for two candidates"),
    "one logit for all": (remake_onnx(one_for_all), "gives float32 (1,) for two candidates"),
    "two outputs": (remake_onnx(two_outputs), "gives float32 (2,), float32 (2,) for two candidates"),
    "a table too short": (remake_onnx(short_table), "cannot run it on schema.json's fields"),
    "a table with nan": (remake_onnx(not_a_number), "expected two finite logits"),
    "an unknown operator": (remake_onnx(unknown_operator), "cannot load it"),
    "a file outside": (remake_onnx(file_outside), "cannot load it"),
    "a model that is cut off": (
        lambda root: os.truncate(root / "crm.onnx", (root / "crm.onnx").stat().st_size // 2), "cannot load it"),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "message"), FOREIGN_ONNX.values(), ids=FOREIGN_ONNX.keys())
def test_a_foreign_onnx_model_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], attack: Attack, message: str
) -> None:
    (root.parent.parent / "outside.bin").write_bytes(b"\0" * 10_000)
    attack(root)
    reseal(root)
    for said in refusals(root, capsys):
        assert "crm.onnx: " in said
        assert message in said


@dataclass(frozen=True)
class Lengths:
    """Where a file is cut: everywhere in its beginning, and here and there."""

    dense: int
    step: int

    def of(self, size: int) -> list[int]:
        return [*range(0, min(self.dense, size), 37), *range(self.dense, size, self.step)]


@pytest.mark.parametrize(("name", "lengths"), [
    ("llm.gguf", Lengths(1500, 20_000)), ("crm.onnx", Lengths(1500, 300)),
    pytest.param("llm.gguf", Lengths(6000, 9000), marks=pytest.mark.slow),
])  # fmt: skip
def test_wherever_a_model_is_cut_off_it_is_refused(root: Path, name: str, lengths: Lengths) -> None:
    whole = (root / name).read_bytes()
    for length in lengths.of(len(whole)):
        (root / name).write_bytes(whole[:length])
        reseal(root)
        with pytest.raises(BundleError, match=re.escape(f"{name}: ")):
            Engine.open(root, llm_threads=1, tuned=False)
