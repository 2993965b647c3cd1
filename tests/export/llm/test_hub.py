"""Checkpoints fetched from a hub on this machine over real HTTP: what is taken, what is compared, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import random_model, save_checkpoint, save_scratch_tokenizer
from corella_edge.cli import cli
from corella_edge.cli.common import with_checkpoint
from corella_edge.errors import InputError, RecipeError
from corella_edge_export.llm import hub, looking
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.text import sentences
from corella_edge_export.text.encoder import SentenceEncoder
from encoders import make_encoder
from fake_hub import COMMIT, OWNER, FakeHub, serving

ID = f"{OWNER}@{COMMIT}"
PICKLES = {"pytorch_model.bin": b"a pickle", "training_args.bin": b"a pickle", "optimizer.pt": b"a pickle"}
OTHERS = {"README.md": b"# A model", "consolidated.safetensors": b"\0" * 99, "onnx/model.onnx": b"\0",
          ".gitattributes": b"", "modeling_tiny.py": b"raise SystemExit", "../outside.json": b"{}"}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small checkpoint, and its licence."""
    folder = save_checkpoint(tmp_path_factory.mktemp("hub") / "model", model_type="qwen3")
    return {**{path.name: path.read_bytes() for path in sorted(folder.iterdir())}, "LICENSE": b"MIT"}


@pytest.fixture
def faked(checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the checkpoint, pickles, code and other files beside it."""
    with serving({**checkpoint, **PICKLES, **OTHERS}) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "theirs"))
        yield found


def fetched(out: Path, text: str = ID) -> list[str]:
    return [path.name for path in hub.fetch(hub.parse(text), out, lambda line: None)]


def test_what_a_model_is_read_by_is_fetched_and_nothing_else(
    faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    assert set(fetched(tmp_path / "model")) == {*checkpoint, "SOURCE.json"}
    assert all((tmp_path / "model" / name).read_bytes() == content for name, content in checkpoint.items())
    about = json.loads((tmp_path / "model" / "SOURCE.json").read_text())
    assert (about["hub"], about["licence"]) == (ID, "mit")
    assert about["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in checkpoint.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert looking.look(tmp_path / "model").trained == ""
    assert not any(name in line for line in faked.asked for name in (*PICKLES, *OTHERS))


def sharded(files: dict[str, bytes], *shards: str) -> dict[str, bytes]:
    index = json.dumps({"weight_map": {f"tensor{i}": shard for i, shard in enumerate(shards)}}).encode()
    rest = {name: content for name, content in files.items() if name != hub.ONE}
    return {**rest, hub.INDEX: index}


def test_shards_are_those_of_the_index(faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    faked.files = {**sharded(checkpoint, *names), **dict.fromkeys(names, b"\0" * 1000), **OTHERS}
    assert {*names, hub.INDEX} <= set(fetched(tmp_path / "model"))
    assert "consolidated.safetensors" not in fetched(tmp_path / "again")


@pytest.mark.parametrize("shard", ["gone.safetensors", "../x.safetensors", "pytorch_model.bin"])
def test_an_index_that_names_other_files_is_refused(
    faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path, shard: str
) -> None:
    faked.files = {**sharded(checkpoint, shard), **PICKLES}
    with pytest.raises(InputError, match=f"names {shard}, which is no safetensors file of that commit"):
        fetched(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("revision", ["", "@", "@main", "@v1.0", f"@{COMMIT[:7]}", f"@{COMMIT.upper()}", f"@{COMMIT}0"])
def test_what_is_not_pinned_is_refused_and_says_how_to(revision: str) -> None:
    with pytest.raises(InputError, match=rf"pin it as OWNER/NAME@COMMIT, .*{OWNER}/commits/main shows"):
        hub.parse(f"{OWNER}{revision}")


@pytest.mark.parametrize(
    "text", ["model", "a/b/c@main", f"../../x@{COMMIT} y", f"{ID}:x.bin", f"{ID}:../x.gguf", "a b/c"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no id of the hub; write OWNER/NAME@COMMIT"):
        hub.parse(text)


@given(
    st.text(st.sampled_from("ab/@:.-_ 0f\n"), max_size=12), st.sampled_from(["", COMMIT, "main"]), st.text(max_size=9)
)
def test_any_text_is_an_id_that_says_itself_or_an_error(start: str, commit: str, end: str) -> None:
    text = f"{start}@{commit}{end}"
    try:
        found = hub.parse(text)
    except InputError:
        return
    assert str(found) == text
    assert found.place.parent.name == "hub"


def test_a_branch_that_is_named_like_a_commit_is_refused(faked: FakeHub, tmp_path: Path) -> None:
    faked.commit = "f" * 40
    with pytest.raises(InputError, match="has no commit of that number, but a branch, at ffff"):
        fetched(tmp_path / "model")


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at once
    faked.cut = {hub.ONE: 10_000}
    with pytest.raises(InputError, match="the same command goes on where this one stopped"):
        fetched(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    faked.cut = {}
    faked.asked.clear()
    fetched(tmp_path / "model")
    assert (tmp_path / "model" / hub.ONE).read_bytes() == checkpoint[hub.ONE]
    received = [line for line in faked.asked if line.startswith("GET") and "/resolve/" in line]
    assert received == [f"GET /{OWNER}/resolve/{COMMIT}/{hub.ONE} bytes=10000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["config.json", hub.ONE])
def test_a_file_of_other_content_is_refused_and_fetched_anew(
    faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    faked.sent = {name: checkpoint[name][:-1] + bytes([checkpoint[name][-1] ^ 1])}
    with pytest.raises(InputError, match=rf"{name} came with .* bytes and the hash \w+, the hub states"):
        fetched(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    faked.sent = {}
    fetched(tmp_path / "model")
    assert (tmp_path / "model" / name).read_bytes() == checkpoint[name]


def test_without_a_network_it_says_what_to_do_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = CliRunner().invoke(cli, ["llm", "fetch", ID, "--out", str(tmp_path / "model")])
    assert isinstance(done.exception, InputError)
    text = str(done.exception)
    assert text.startswith(f"{ID}: http://127.0.0.1:9 cannot be reached")
    assert f"corella-edge llm fetch {ID} --out DIR` on a machine that reaches it, copy DIR here" in text
    assert "\n" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("refuses", "message"),
    [((404, "RepoNotFound"), "is not there, or is shown to its owners only"),
     ((403, "GatedRepo"), "accept its terms at"),
     ((404, "RevisionNotFound"), "has no such commit"),
     ((503, ""), "cannot be reached, or fails .*503")],
)  # fmt: skip
def test_a_hub_that_refuses_is_one_line(faked: FakeHub, tmp_path: Path, refuses: tuple[int, str], message: str) -> None:
    faked.refuses = refuses
    with pytest.raises(InputError, match=message) as found:
        fetched(tmp_path / "model")
    assert "\n" not in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_pickles_are_not_fetched(faked: FakeHub, checkpoint: dict[str, bytes], tmp_path: Path) -> None:
    faked.files = {**{name: content for name, content in checkpoint.items() if name != hub.ONE}, **PICKLES}
    with pytest.raises(InputError, match=r"holds no model.safetensors, and \w+\.(bin|pt), a pickle, may hold any code"):
        fetched(tmp_path / "model")
    assert not any("GET" in line and name in line for line in faked.asked for name in PICKLES)


def test_a_gguf_file_is_fetched_by_its_name(faked: FakeHub, tmp_path: Path) -> None:
    count = save_scratch_tokenizer(tmp_path / "of")
    write_gguf(random_model("llama", count), load_tokenizer(tmp_path / "of"), tmp_path / "tiny.f16.gguf", "tiny")
    faked.files = {"tiny.f16.gguf": (tmp_path / "tiny.f16.gguf").read_bytes(), "other.gguf": b"GGUF", "NOTICE": b"MIT"}
    with pytest.raises(InputError, match=rf"GGUF files name one, as {ID}:other\.gguf: other\.gguf, tiny\.f16\.gguf"):
        fetched(tmp_path / "model")
    assert fetched(tmp_path / "model", f"{ID}:tiny.f16.gguf") == ["NOTICE", "SOURCE.json", "tiny.f16.gguf"]
    assert looking.look(tmp_path / "model" / "tiny.f16.gguf").served == ""


def test_a_recipe_names_one_and_it_is_fetched_once(faked: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'base = "ml-1m-smollm2"\nname = "r"\n[llm]\npath = "hub:{ID}"\n')
    recipe = with_checkpoint(load_recipe(str(tmp_path / "r.toml")), None)
    place = Path(recipe.llm.path)
    assert place == tmp_path / "cache" / "corella-edge" / "hub" / f"tiny--model@{COMMIT}"
    assert looking.look(place).trained == ""
    faked.asked.clear()
    assert with_checkpoint(load_recipe(str(tmp_path / "r.toml")), None) == recipe
    assert faked.asked == []


def test_a_recipe_that_pins_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'base = "ml-1m-smollm2"\nname = "r"\n[llm]\npath = "hub:{OWNER}@main"\n')
    with pytest.raises(RecipeError, match=r"llm, path: .*'main' may be another model tomorrow; pin it"):
        load_recipe(str(tmp_path / "r.toml"))


ENCODER = """
base = "games-text"
name = "r"
[crm.text]
source = "{source}"
path = "{path}"
"""


def encoder_recipe(tmp_path: Path, path: str = f"hub:{ID}", source: str = "encoder") -> Recipe:
    (tmp_path / "r.toml").write_text(ENCODER.format(source=source, path=path))
    return load_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sentence_encoder_comes_with_how_it_pools(faked: FakeHub, tmp_path: Path, pooling: str) -> None:
    folder = make_encoder(tmp_path / "encoder", pooling, normalises=False)
    files = [path for path in folder.rglob("*") if path.is_file()]
    faked.files = {**{str(path.relative_to(folder)): path.read_bytes() for path in files}, **OTHERS}
    recipe = with_checkpoint(encoder_recipe(tmp_path), None)
    place = Path(recipe.crm.text.path)
    assert place == tmp_path / "cache" / "corella-edge" / "hub" / f"tiny--model@{COMMIT}"
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(folder)) for path in files} | {"SOURCE.json"}
    found = SentenceEncoder(place)
    assert (found.pooling, found.normalises) == (pooling, False)
    assert sentences.identity(recipe) == sentences.identity(encoder_recipe(tmp_path, str(folder)))
    faked.asked.clear()
    assert with_checkpoint(encoder_recipe(tmp_path), None) == recipe
    assert faked.asked == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        (f"hub:{OWNER}@main", "encoder", "crm, text, path: .*'main' may be another model tomorrow; pin it"),
        (f"hub:{OWNER}", "said", "crm, text, path: .*it names no commit; pin it"),
        (f"hub:{ID}:tiny.gguf", "encoder", "crm, text, path: .*no GGUF file; leave tiny.gguf out of the id"),
    ],
)
def test_an_encoder_s_id_that_is_none_is_refused_by_its_key(
    tmp_path: Path, path: str, source: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        encoder_recipe(tmp_path, path, source)


@pytest.mark.parametrize("key", ["llm", "crm, text"])
def test_a_hub_that_refuses_names_the_recipe_s_key(faked: FakeHub, tmp_path: Path, key: str) -> None:
    faked.refuses = 404, "RepoNotFound"
    (tmp_path / "r.toml").write_text(f'base = "ml-1m-smollm2"\nname = "r"\n[llm]\npath = "hub:{ID}"\n')
    recipe = load_recipe(str(tmp_path / "r.toml")) if key == "llm" else encoder_recipe(tmp_path)
    with pytest.raises(InputError, match=f"recipe r, {key}, path: {ID}: .* is not there"):
        with_checkpoint(recipe, None)


def test_the_command_tells_what_came(faked: FakeHub, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["llm", "fetch", ID, "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'model' / 'config.json'}: " in done.output
    assert f"next: corella-edge llm check {tmp_path / 'model'}" in done.output
    refused = CliRunner().invoke(cli, ["llm", "fetch", ID, "--out", str(tmp_path / "model")])
    assert "exists and is not empty" in str(refused.exception)
