from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.bundle import artefact as bundle
from corella_edge.bundle import files, schema_files
from corella_edge.bundle.artefact import MANIFEST, SEAL, Bundle, Manifest, seal_of
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.schema import Field, Schema, Vocabulary
from corella_edge.prompt import Template, Tokens

SCHEMA = Schema((Field("item_id", "categorical", "item", "id", "item_id"),), {"item_id": Vocabulary("item_id", ["a"])})
ROUTING = {"threshold": "ratio:0.05", "calibration": {"shares": [0, 0.5, 1], "thresholds": [None, 0.4, 0.0]}}
PROMPT = {"template": Template().to_json(), "tokens": {"yes": 3, "no": 4, "bos": None}}


def fill(folder: Path) -> None:
    schema_files.write_schema(folder, SCHEMA, Catalog(["a", "b"], [{"title": "A"}, {}]))
    for name, value in (("routing", ROUTING), ("prompt", PROMPT), ("verification", {})):
        (folder / f"{name}.json").write_text(json.dumps(value))
    for name in ("crm.onnx", "llm.gguf", "reference.jsonl"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty.txt").write_bytes(b"")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle, never changed by a test."""
    root = tmp_path_factory.mktemp("sealed") / "bundle"
    root.mkdir()
    fill(root)
    bundle.seal(root, "toy", "3", {"licence": "none"})
    return root


@pytest.fixture
def root(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


def rewrite(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and seal it again, as a forger would."""
    data = json.loads((root / MANIFEST).read_bytes())
    raw = json.dumps(change(data)).encode()
    (root / MANIFEST).write_bytes(raw)
    (root / SEAL).write_bytes(seal_of(raw))


def replace(root: Path, name: str, content: bytes) -> None:
    """Change a file and list it so, as a forger would."""
    (root / name).write_bytes(content)
    bundle.seal(root, "toy", "3", {})


def refusal(root: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(root)
    return str(caught.value)


def test_what_was_written_is_read(root: Path) -> None:
    opened = Bundle.open(root)
    assert opened.label == "toy@3"
    assert opened.manifest.about == {"licence": "none"}
    schema, catalog = opened.schema()
    assert (schema.fields, catalog.ids) == (SCHEMA.fields, ["a", "b"])
    assert opened.prompt() == (Template(), Tokens(3, 4, None))
    assert opened.calibration().threshold(0.5) == 0.4
    assert opened.routing().threshold == "ratio:0.05"
    assert opened.has("llm.gguf")
    assert not opened.has("lora.gguf")
    assert Manifest.parse(json.loads(json.dumps(opened.manifest.to_json()))) == opened.manifest


def test_the_seal_is_what_sha256sum_reads(root: Path) -> None:
    assert subprocess.run(["sha256sum", "-c", SEAL], cwd=root, capture_output=True).returncode == 0


def test_every_flipped_byte_is_refused_by_its_file(sealed: Path) -> None:
    for path in sorted(p for p in sealed.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        name = path.relative_to(sealed).as_posix()
        try:
            for i in range(len(whole)):
                path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :])
                assert name in refusal(sealed), (name, i)
        finally:
            path.write_bytes(whole)
    Bundle.open(sealed)


def test_every_shorter_longer_or_missing_file_is_refused(sealed: Path) -> None:
    for path in sorted(p for p in sealed.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        name = path.relative_to(sealed).as_posix()
        try:
            path.write_bytes(whole + b" ")
            assert name in refusal(sealed)
            if whole:
                path.write_bytes(whole[:-1])
                assert name in refusal(sealed)
            path.unlink()
            assert f"{name} is missing" in (message := refusal(sealed)) or f"{name}: missing" in message
        finally:
            path.write_bytes(whole)
    Bundle.open(sealed)


@pytest.mark.parametrize("name", ["extra.txt", "vocab/extra.json", ".hidden", "new/deep/file"])
def test_an_extra_file_is_refused(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("x")
    assert f"{name}: not listed" in refusal(root)


def test_links_and_devices_are_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("crm.onnx", "empty.txt", MANIFEST):
        (root / name).rename(outside)
        (root / name).symlink_to(outside)
        assert f"{name}: not a regular file" in refusal(root)
        (root / name).unlink()
        outside.rename(root / name)
    (root / "empty.txt").unlink()
    os.mkfifo(root / "empty.txt")
    assert "empty.txt: not a regular file" in refusal(root)
    assert len(list(Bundle(root, bundle.read_manifest(root)).problems())) == 1


def test_a_linked_folder_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "vocab", tmp_path / "elsewhere")
    (root / "vocab").symlink_to(tmp_path / "elsewhere")
    assert "vocab: not a regular file" in refusal(root)


def test_a_folder_in_place_of_a_file_is_refused(root: Path) -> None:
    (root / "crm.onnx").unlink()
    (root / "crm.onnx").mkdir()
    assert "crm.onnx: missing" in refusal(root)


def test_a_bundle_that_is_a_link_opens(root: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(root)
    assert Bundle.open(tmp_path / "latest").label == "toy@3"


def test_all_problems_are_told(root: Path) -> None:
    (root / "crm.onnx").write_text("crm.onnY")
    (root / "llm.gguf").unlink()
    (root / "more").write_text("")
    found = list(Bundle(root, bundle.read_manifest(root)).problems())
    assert [line.split(":")[0] for line in found] == ["more", "crm.onnx", "llm.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/etc/passwd",
        "a/../../b",
        "a/./b",
        "a//b",
        "",
        ".",
        "..",
        "a\nb",
        "a\\b",
        "ü",
        "x/",
        MANIFEST,
        SEAL,
        "a b",
    ],
)
def test_a_name_outside_the_bundle_is_refused(root: Path, name: str) -> None:
    entry = {"sha256": "0" * 64, "size": 0}
    rewrite(root, lambda data: {**data, "files": {**data["files"], name: entry}})
    assert f"{name!r} is not a file name" in refusal(root)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, [1], 10**30, {"a": "b" * 1000}])
def test_an_unknown_format_is_refused_by_name(root: Path, version: Any) -> None:
    rewrite(root, lambda data: {**data, "format_version": version})
    message = refusal(root)
    assert f"format_version {version!r}"[:60] in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("change", "part"),
    [({"name": 3}, "name"), ({"version": None}, "version"), ({"about": []}, "about"), ({"files": []}, "files"),
     ({"files": {"crm.onnx": 3}}, "'crm.onnx'"), ({"files": {"crm.onnx": {"sha256": "0" * 64}}}, "'crm.onnx'"),
     ({"files": {"crm.onnx": {"sha256": "0" * 64, "size": -1}}}, "'crm.onnx'"),
     ({"files": {"crm.onnx": {"sha256": "0" * 64, "size": True}}}, "'crm.onnx'"),
     ({"files": {"crm.onnx": {"sha256": "Z" * 64, "size": 1}}}, "'crm.onnx'"),
     ({"files": {}}, "lacks schema.json")],
)  # fmt: skip
def test_a_wrong_type_in_the_manifest_is_named(root: Path, change: dict[str, Any], part: str) -> None:
    rewrite(root, lambda data: {**data, **change})
    assert part in refusal(root)


@pytest.mark.parametrize(
    ("more", "said"),
    [(("crm.int8.onnx",), ""), (("crm.events.onnx",), ""),
     (("crm.int8.onnx", "crm.events.onnx", "crm.events.int8.onnx"), ""),
     (("crm.int8.onnx", "crm.events.onnx"), "has crm.int8.onnx and lacks crm.events.int8.onnx"),
     (("crm.events.int8.onnx",), "has crm.onnx and lacks crm.events.onnx"),
     (("crm.events.onnx", "crm.events.int8.onnx"), "has crm.events.int8.onnx and lacks crm.int8.onnx"),
     (("crm.items.onnx", "crm.product.onnx"), ""),
     (("crm.items.onnx",), "has crm.items.onnx and lacks crm.product.onnx"),
     (("crm.product.onnx", "crm.events.onnx"), "has crm.product.onnx and lacks crm.items.onnx")],
)  # fmt: skip
def test_graphs_that_belong_together_are_all_there(root: Path, more: tuple[str, ...], said: str) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    rewrite(root, lambda data: {**data, "files": {**data["files"], **dict.fromkeys(more, entry)}})
    if said:
        assert said in refusal(root)
    else:
        assert f"{more[0]}: missing" in refusal(root)  # the manifest itself is in order


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("0" * 64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["sha256", "size", "../x", "a"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(value: Any) -> list[tuple[str, ...]]:
    """The place of every value in nested objects."""
    below = [(key, *path) for key, inner in value.items() for path in paths(inner)] if isinstance(value, dict) else []
    return [(), *below]


@settings(max_examples=300)
@given(st.data())
def test_any_manifest_is_read_or_refused(sealed: Path, data: st.DataObject) -> None:
    manifest = json.loads((sealed / MANIFEST).read_bytes())
    place = data.draw(st.sampled_from(paths(manifest)))
    value = data.draw(JUNK)
    holder = manifest
    for key in place[:-1]:
        holder = holder[key]
    if not place:
        manifest = value
    elif data.draw(st.booleans()):
        holder[place[-1]] = value
    else:
        holder[data.draw(st.text(max_size=5))] = holder.pop(place[-1])
    try:
        found = Manifest.parse(manifest)
    except BundleError as error:
        assert MANIFEST in str(error)  # noqa: PT017 - both outcomes are right
        return
    assert {MANIFEST, SEAL}.isdisjoint(found.files)
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in found.files)
    assert set(bundle.REQUIRED) <= found.files.keys()


@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b"{}", b"null", b"\xff\xfe{}", b'{"a":' * 50_000]))
def test_any_bytes_as_a_manifest_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    root = tmp_path_factory.mktemp("forged")
    (root / MANIFEST).write_bytes(raw)
    (root / SEAL).write_bytes(seal_of(raw))
    assert MANIFEST in refusal(root)


def test_what_is_no_bundle_is_told_so(tmp_path: Path) -> None:
    assert "not a bundle" in refusal(tmp_path)
    assert "not a bundle" in refusal(tmp_path / "absent")
    (tmp_path / MANIFEST).write_text("{}")
    assert f"{SEAL} is missing" in refusal(tmp_path)
    assert "not a bundle" in refusal(tmp_path / MANIFEST)


def test_an_oversized_manifest_is_not_read(root: Path) -> None:
    with (root / MANIFEST).open("r+b") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    assert "larger than" in refusal(root)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [("vocab/item_id.json", b'["a", "a"]', "twice"), ("vocab/item_id.json", b'{"a": 1}', "list of texts"),
     ("vocab/item_id.json", b"[1]", "list of texts"), ("vocab/item_id.json", b"[", "vocab/item_id.json: not JSON"),
     ("vocab/item_id.json", b"\xff", "vocab/item_id.json"), ("vocab/item_id.json", b"[" * 99_999, "deeply"),
     ("schema.json", b"[]", "schema.json"), ("schema.json", b"{}", "schema.json"),
     ("schema.json", b"\xff", "schema.json"),
     ("schema.json", b'{"fields": null}', "schema.json"), ("schema.json", b'{"fields": [3]}', "schema.json"),
     ("schema.json", b'{"fields": [{"name": "x", "kind": "categorical", "side": "user", "source": "id", '
                     b'"vocab": "../../secret"}]}', "'../../secret' is not a name"),
     ("schema.json", b'{"fields": [{"name": "x", "kind": "categorical", "side": "user", "source": "id", '
                     b'"vocab": "absent"}]}', "vocab/absent.json"),
     ("catalog.jsonl", b"{}\n", "catalog.jsonl line 1")],
)  # fmt: skip
def test_a_wrong_schema_vocabulary_or_catalogue_is_named(root: Path, name: str, content: bytes, part: str) -> None:
    replace(root, name, content)
    opened = Bundle.open(root)
    with pytest.raises(BundleError) as caught:
        opened.schema()
    assert part in str(caught.value)


def test_an_oversized_vocabulary_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_files, "MAX_VOCABULARY_BYTES", 3)
    with pytest.raises(BundleError, match=r"vocab/item_id\.json: larger than 3 bytes"):
        Bundle.open(root).schema()


@pytest.mark.parametrize(
    "content",
    [{}, {"calibration": 3}, {"calibration": {"shares": [0, 1]}}, {"calibration": {"shares": 3, "thresholds": 4}},
     {"calibration": {"shares": [0, 1], "thresholds": [0.5]}}, {"calibration": {"shares": [], "thresholds": []}},
     {"calibration": {"shares": [0, "x"], "thresholds": [0.5, 0]}},
     {"calibration": {"shares": [0, 1], "thresholds": [0.1, 0.5]}}],
)  # fmt: skip
def test_a_wrong_calibration_is_named(root: Path, content: Any) -> None:
    replace(root, "routing.json", json.dumps({"threshold": 3, **content}).encode())
    opened = Bundle.open(root)
    with pytest.raises(BundleError, match=r"routing\.json"):
        opened.calibration()
    with pytest.raises(BundleError, match=r"routing\.json"):
        opened.routing()


@pytest.mark.parametrize("content", [b"{}", b'{"template": {}, "tokens": {}}', b'{"template": 3, "tokens": 4}', b"3"])
def test_a_wrong_prompt_is_named(root: Path, content: bytes) -> None:
    replace(root, "prompt.json", content)
    with pytest.raises(BundleError, match=r"prompt\.json"):
        Bundle.open(root).prompt()


def test_a_bundle_may_lack_an_llm(root: Path) -> None:
    (root / "prompt.json").unlink()
    (root / "llm.gguf").unlink()
    bundle.seal(root, "toy", "3", {})
    assert Bundle.open(root).prompt() is None


def test_an_incomplete_folder_is_not_sealed(root: Path) -> None:
    (root / "crm.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks crm\.onnx"):
        bundle.seal(root, "toy", "3", {})
