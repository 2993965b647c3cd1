"""Public data sets from their publishers' servers: licence accepted, checksum compared, unpacked into one folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from corella_edge.atomic import check_free, new_folder
from corella_edge.errors import InputError

Progress = Callable[[int, int | None], None]
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_AMAZON_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
_AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
_MOVIELENS = "GroupLens: research use; no redistribution, and no commercial use without permission (see its README)"
_AMAZON = "Amazon reviews, published for research by J. McAuley's group; no licence is stated; cite their papers"
_PIECE = 1 << 20
_BEGINS = {".zip": b"PK", ".gz": b"\x1f\x8b"}


@dataclass(frozen=True)
class Download:
    """One file to fetch. `md5`: as its publisher states it; empty where none is stated."""

    url: str
    md5: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class DataSet:
    """What `data download NAME` fetches, and the reader that prepares it."""

    reader: str
    licence: str
    files: tuple[Download, ...]


def _movielens(name: str, reader: str, md5: str = "") -> DataSet:
    return DataSet(reader, _MOVIELENS, (Download(f"{_GROUPLENS}/{name}.zip", md5),))


DATA_SETS = {
    "ml-100k": _movielens("ml-100k", "ml-100k", "0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": _movielens("ml-1m", "ml-1m", "c4d9eecfca2ab87c1945afe126590906"),
    "ml-20m": _movielens("ml-20m", "ml-csv", "cd245b17a1ae2cc31bb14903e1204af3"),
    "ml-25m": _movielens("ml-25m", "ml-csv", "6b51fb2759a8657d3bfcbfc42b592ada"),
    "ml-latest-small": _movielens("ml-latest-small", "ml-csv"),
}
_CATEGORIES: dict[str, Callable[[str], tuple[str, str]]] = {
    "amazon-2014": lambda name: (f"{_AMAZON_2014}/reviews_{name}_5.json.gz", f"{_AMAZON_2014}/meta_{name}.json.gz"),
    "amazon-2018": lambda name: (
        f"{_AMAZON_2018}/categoryFilesSmall/{name}_5.json.gz",
        f"{_AMAZON_2018}/metaFiles2/meta_{name}.json.gz",
    ),
    "amazon-2023": lambda name: (
        f"{_AMAZON_2023}/review_categories/{name}.jsonl.gz",
        f"{_AMAZON_2023}/meta_categories/meta_{name}.jsonl.gz",
    ),
}


def data_set(name: str) -> DataSet:
    """The data set of that name; Amazon's are named with a category: "amazon-2018/Gift_Cards".

    Raises:
        InputError: no such data set; the message lists the known ones.
    """
    family, _, category = name.partition("/")
    if family in _CATEGORIES and category.replace("_", "").isalnum():
        return DataSet(family, _AMAZON, tuple(map(Download, _CATEGORIES[family](category))))
    if name in DATA_SETS:
        return DATA_SETS[name]
    names = [*DATA_SETS, *(f"{family}/CATEGORY" for family in _CATEGORIES)]
    raise InputError(f"unknown data set {name!r}; known ones: {', '.join(names)}")


def download(found: DataSet, out: Path, progress: Progress | None = None) -> dict[str, str]:
    """Fetch and unpack a data set into the new folder `out`; returns file → sha256 of what was fetched.

    A download that was interrupted goes on where it stopped, if the server can do that.

    Raises:
        InputError: `out` is taken, the server cannot be reached or refuses, or a file is not what its publisher states.
    """
    check_free(out)
    parts = out.parent / f".{out.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    fetched = [_fetch(file, parts / file.name, progress or (lambda done, size: None)) for file in found.files]
    hashes = {path.name: _hash(path, "sha256") for path in fetched}
    with new_folder(out) as folder:
        for path in fetched:
            _place(path, folder)
        (folder / "SOURCE.json").write_text(_record(found, hashes), encoding="utf-8")
    shutil.rmtree(parts)
    return hashes


def _record(found: DataSet, hashes: dict[str, str]) -> str:
    files = [{"url": file.url, "sha256": hashes[file.name]} for file in found.files]
    return json.dumps({"licence": found.licence, "files": files}, indent=2) + "\n"


def _fetch(file: Download, path: Path, progress: Progress) -> Path:
    """The whole file at `path`, checked: its publisher's checksum, and its first bytes."""
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        try:
            _receive(file.url, part, progress)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{file.url}: {reason}; run the command again to go on, or get the file by hand") from None
        part.rename(path)
    if file.md5 and (got := _hash(path, "md5")) != file.md5:
        path.unlink()
        raise InputError(f"{file.url}: its MD5 is {got}, the publisher states {file.md5}; run the command again")
    if not _is_packed(path):
        path.unlink()
        raise InputError(
            f"{file.url}: what came is no {path.suffix[1:]} file, perhaps a proxy's page; open the address in a browser"
        )
    return path


def _is_packed(path: Path) -> bool:
    """Whether a file begins as its name says; of other names always."""
    with path.open("rb") as file:
        return file.read(4).startswith(_BEGINS.get(path.suffix, b""))


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Append what is missing of a file to `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: the part is the whole file already
            raise
        error.close()
        return
    with answer:
        have = have if answer.status == 206 else 0
        length = answer.headers["Content-Length"]
        size = have + int(length) if length else None
        with part.open("ab" if have else "wb") as out:
            for piece in _pieces(answer):
                out.write(piece)
                have += len(piece)
                progress(have, size)
    if size is not None and have < size:
        raise ConnectionError(f"the connection ended after {have:,} of {size:,} bytes")


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    return iter(lambda: answer.read(_PIECE), b"")


def _place(path: Path, folder: Path) -> None:
    """An archive's files without their folders; any other file as it is. Raises InputError for a damaged archive."""
    if path.suffix != ".zip":
        shutil.copyfile(path, folder / path.name)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        path.unlink()  # so that the next run fetches it again
        raise InputError(f"{path.name}: cannot be unpacked ({error}); run the command again") from None


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename).name
        if name and not entry.is_dir() and not (folder / name).exists():
            with archive.open(entry) as inner, (folder / name).open("wb") as outer:
                shutil.copyfileobj(inner, outer)


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
