"""Checkpoints of the Hugging Face hub, pinned to a commit and compared with its hashes. The one file that knows it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from corella_edge.atomic import check_free, link_or_copy, locked_folder, new_folder
from corella_edge.errors import InputError, told
from corella_edge_runtime.box import cache_folder

Say = Callable[[str], None]
PREFIX = "hub:"  # of a path in a recipe
FORM = "OWNER/NAME@COMMIT, or OWNER/NAME@COMMIT:FILE.gguf"
SOURCE = "SOURCE.json"
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
POOLING = "1_Pooling/config.json"  # the one file that lies in a folder of the repository
# What a model is read by besides its weights; nothing that holds code is fetched, and so no pickle.
BESIDE = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", INDEX,
    # Of a sentence encoder: what is done with the model's states, and how long its texts are.
    "modules.json", "sentence_bert_config.json", POOLING,
)  # fmt: skip
PATIENCE = 3600.0  # seconds that a process of the same training waits for the one that fetches
_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<commit>[^\s:]*))?(?::(?P<file>[\w.-]+\.gguf))?")
_LICENCE = re.compile(r"(LICEN|NOTICE|USE_POLICY)[\w.-]*")
_PLAIN = re.compile(r"[\w-][\w.-]*")  # a file's name that is no path


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository at one commit. `file` is the GGUF file that is meant; empty where its checkpoint is."""

    repository: str
    commit: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit}" + (f":{self.file}" if self.file else "")

    @property
    def page(self) -> str:
        return f"{_endpoint()}/{self.repository}"

    @property
    def place(self) -> Path:
        """Where on this machine it lies, once it is fetched for a recipe. Raises InputError."""
        name = f"{self.repository.replace('/', '--')}@{self.commit}"
        return cache_folder() / "hub" / (f"{name}--{self.file}" if self.file else name)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the hub states it: bytes, and sha256 (of what it keeps in LFS) or git's hash of its content."""

    name: str
    size: int
    sha256: str
    git: str


def parse(text: str) -> HubId:
    """The id in a text. Raises InputError for another form, and for a branch or tag in the place of a commit."""
    found = _ID.fullmatch(text.removeprefix(PREFIX))
    if found is None:
        raise InputError(f"{text}: is no id of the hub; write {FORM}")
    commit = found["commit"] or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        what = f"{commit!r} may be another model tomorrow" if commit else "it names no commit"
        page = f"{_endpoint()}/{found['repository']}/commits/main"
        raise InputError(f"{text}: {what}; pin it as {FORM}, with the 40 digits of a commit that {page} shows")
    return HubId(found["repository"], commit, found["file"] or "")


def is_id(path: str) -> bool:
    """Whether a path of a recipe is an id of the hub."""
    return path.startswith(PREFIX)


def at_hand(path: str, key: str, say: Say) -> str:
    """A path of a recipe on this machine: as it is, or of an id of the hub its folder or GGUF file, fetched where it is
    not there yet. Raises InputError as `parse` and `fetch`, which names the `key` of the recipe."""
    if not is_id(path):
        return path
    try:
        wanted = parse(path)
        if not wanted.place.is_dir():
            fetch(wanted, wanted.place, say, PATIENCE)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    return str((wanted.place / wanted.file if wanted.file else wanted.place).resolve())


def fetch(wanted: HubId, out: Path, say: Say, patience: float = 0.0) -> list[Path]:
    """Fetch a checkpoint into the new folder `out`: its config, tokenizer, safetensors and licence, or one GGUF file.

    What was interrupted goes on where it stopped. `out` appears when every file has the size and hash that the hub
    states for that commit; SOURCE.json tells them.

    Args:
        say: gets a line for each file. patience: seconds to wait for another process that fetches the same.

    Raises:
        InputError: `out` is taken, the hub cannot be reached or refuses, or it has nothing there that can be used.
    """
    parts = out.parent / f".{out.name}.parts"
    with locked_folder(parts, patience):
        try:
            if not (patience and out.is_dir()):
                check_free(out)
                _fetch(wanted, out, parts, say)
        except InputError:
            if (out / SOURCE).is_file():  # it is complete: what an earlier fetch has left is not needed
                shutil.rmtree(parts, ignore_errors=True)
            with suppress(OSError):  # of a folder that holds the beginnings of files
                parts.rmdir()
            raise
        shutil.rmtree(parts)
    return sorted(path for path in out.rglob("*") if path.is_file())


def _fetch(wanted: HubId, out: Path, parts: Path, say: Say) -> None:
    with _reaching(wanted, parts):
        files, licence = _listed(wanted)
        names = [name for name in files if name == wanted.file or _LICENCE.fullmatch(name)]
        if not wanted.file:
            names += [name for name in files if name in BESIDE]
        for name in names:
            _receive(wanted, files[name], parts, say)
        if not wanted.file:
            weights = _weights(wanted, files, parts)
            names += weights
            for name in weights:
                _receive(wanted, files[name], parts, say)
    with new_folder(out) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            link_or_copy(parts / name, folder / name)
        about = {
            "hub": str(wanted),
            "licence": licence,
            "files": {name: _hash(parts / name, "sha256") for name in names},
        }
        (folder / SOURCE).write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _listed(wanted: HubId) -> tuple[dict[str, Listed], str]:
    """(the files at that commit that may be wanted, what it says of its licence). Raises InputError."""
    from huggingface_hub import HfApi

    found = HfApi(endpoint=_endpoint()).model_info(
        wanted.repository, revision=wanted.commit, files_metadata=True, timeout=30
    )
    if found.sha != wanted.commit:  # a branch may be named by 40 digits
        raise InputError(f"{wanted}: {wanted.page} has no commit of that number, but a branch, at {found.sha}")
    files = {
        entry.rfilename: Listed(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else "",
                                entry.blob_id or "")
        for entry in found.siblings or () if _PLAIN.fullmatch(entry.rfilename) or entry.rfilename == POOLING
    }  # fmt: skip
    if wanted.file and wanted.file not in files:
        raise InputError(f"{wanted}: {wanted.page} has no such file at that commit{_ggufs(wanted, files)}")
    if not wanted.file and "config.json" not in files:
        raise InputError(f"{wanted}: {wanted.page} holds no checkpoint (config.json){_ggufs(wanted, files)}")
    tags = [tag.removeprefix("license:") for tag in found.tags or () if tag.startswith("license:")]
    return files, " ".join(tags)


def _ggufs(wanted: HubId, names: Collection[str]) -> str:
    """The end of a sentence: which GGUF files there are, and how one is named."""
    found = sorted(name for name in names if name.endswith(".gguf"))
    if not found:
        return ""
    return f"; of its GGUF files name one, as {wanted.repository}@{wanted.commit}:{found[0]}: {', '.join(found)}"


def _weights(wanted: HubId, names: Collection[str], folder: Path) -> list[str]:
    """The files of weights, by the index in `folder` where there are several. Raises InputError."""
    if ONE in names:
        return [ONE]
    if INDEX not in names:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        why = f", and {pickles[0]}, a pickle, may hold any code; look for a commit with safetensors" if pickles else ""
        raise InputError(f"{wanted}: holds no {ONE}{why}{_ggufs(wanted, names)}")
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        lacking = [shard for shard in shards if shard not in names or not shard.endswith(".safetensors")]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{wanted}: its {INDEX} cannot be read ({error!r})") from None
    if lacking:
        raise InputError(f"{wanted}: its {INDEX} names {lacking[0]}, which is no safetensors file of that commit")
    return shards


def _receive(wanted: HubId, file: Listed, parts: Path, say: Say) -> None:
    """Bring a file into `parts`, whole and as the hub states it. Raises InputError if it is another one."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Its other protocol raises its own kinds of errors, and starts an interrupted download from the beginning.
    constants.HF_HUB_DISABLE_XET = True
    if not sys.stderr.isatty():
        disable_progress_bars()
    say(f"{file.name}: {file.size / 2**20:,.1f} MiB")
    hf_hub_download(wanted.repository, file.name, revision=wanted.commit, local_dir=parts, endpoint=_endpoint())
    path = parts / file.name
    size, found = path.stat().st_size, _hash(path, "sha256") if file.sha256 else _git_hash(path)
    if (size, found) != (file.size, file.sha256 or file.git):
        path.unlink()  # so that it is fetched again
        raise InputError(f"{wanted}: {file.name} came with {size:,} bytes and the hash {found}, the hub states "
                         f"{file.size:,} and {file.sha256 or file.git}; run the same command again")  # fmt: skip


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _git_hash(path: Path) -> str:
    """What git names a file's content by."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _endpoint() -> str:
    """The hub's address; read at every call, where the library reads it once."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@contextmanager
def _reaching(wanted: HubId, parts: Path) -> Iterator[None]:
    """What the library raises, as one sentence that says what to do."""
    from huggingface_hub import errors

    elsewhere = (
        f"run `corella-edge llm fetch {wanted} --out DIR` on a machine that reaches it, copy DIR here, and name it as "
        "the path in the recipe (of an LLM also by --checkpoint)"
    )
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{wanted}: accept its terms at {wanted.page}, then set HF_TOKEN to a token of yours"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{wanted}: {wanted.page} is not there, or is shown to its owners only (HF_TOKEN may hold a token)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{wanted}: {wanted.page} has no such commit; {wanted.page}/commits/main shows them") from None
    except errors.HFValidationError as error:
        raise InputError(f"{wanted}: is no id of the hub ({error})") from None
    except OSError as error:
        if error.errno is not None:  # of this machine, not of the network
            raise InputError(f"{parts}: writing failed: {told(error)}") from None
        why = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{wanted}: {_endpoint()} cannot be reached, or fails ({why}); the same command goes on where "
                         f"this one stopped; or {elsewhere}") from None  # fmt: skip
