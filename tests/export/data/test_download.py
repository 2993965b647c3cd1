"""Data sets fetched from a real HTTP server on this machine."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from corella_edge.cli import cli
from corella_edge.errors import InputError
from corella_edge_export.data import download as downloads
from corella_edge_export.data.download import DataSet, Download, data_set, download

REVIEWS = b"\x1f\x8b" + bytes(range(256)) * 20_000  # 5 MB


@functools.cache  # it holds the time of day
def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("ml/ratings.dat", "1::2::3::4\n")
        made.writestr("../ml/movies.dat", "escaped\n")
    return file.getvalue()


class Publisher(ThreadingHTTPServer):
    """Serves some files; the first answer for a file in `cut` ends after so many bytes."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges = files, dict[str, int](), list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        data = self.server.files.get(self.path.removeprefix("/"))
        if data is None:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            self.server.ranges.append(self.path)
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.server.cut.pop(self.path.removeprefix("/"), len(data))])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher({"ml.zip": archive(), "reviews.gz": REVIEWS}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def found(publisher: Publisher, *names: str, md5: str = "") -> DataSet:
    return DataSet("ml-1m", "for research", tuple(Download(f"{publisher.url}/{name}", md5) for name in names))


def test_an_archive_is_unpacked_without_its_folders(publisher: Publisher, tmp_path: Path) -> None:
    out = tmp_path / "ml"
    hashes = download(found(publisher, "ml.zip", md5=hashlib.md5(archive()).hexdigest()), out)
    assert hashes == {"ml.zip": hashlib.sha256(archive()).hexdigest()}
    assert {path.name for path in out.iterdir()} == {"ratings.dat", "movies.dat", "SOURCE.json"}
    assert json.loads((out / "SOURCE.json").read_text())["licence"] == "for research"
    assert [path.name for path in tmp_path.iterdir()] == ["ml"]


def test_an_interrupted_download_goes_on_where_it_stopped(publisher: Publisher, tmp_path: Path) -> None:
    publisher.cut = {"reviews.gz": 3_000_000}
    with pytest.raises(InputError, match=r"reviews\.gz: .*; run the command again to go on"):
        download(found(publisher, "reviews.gz"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    download(found(publisher, "reviews.gz"), tmp_path / "out")
    assert publisher.ranges == ["/reviews.gz"]
    assert (tmp_path / "out" / "reviews.gz").read_bytes() == REVIEWS


def test_another_file_than_the_publishers_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its MD5 is \w{32}, the publisher states 0000; run the command again"):
        download(found(publisher, "reviews.gz", md5="0000"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_server_that_has_it_not_or_is_not_there_is_one_line(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.zip: Not Found; run the command again"):
        download(found(publisher, "none.zip"), tmp_path / "out")
    with pytest.raises(InputError, match="refused"):
        download(DataSet("ml-1m", "", (Download("http://127.0.0.1:9/ml.zip"),)), tmp_path / "out")


@pytest.mark.parametrize("name", ["page.zip", "page.gz"])
def test_a_page_in_place_of_the_file_is_refused(publisher: Publisher, tmp_path: Path, name: str) -> None:
    publisher.files[name] = b"<html>Log in to the network</html>"
    with pytest.raises(InputError, match=rf"{name}: what came is no {name[5:]} file"):
        download(found(publisher, name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damaged", [archive()[:-30], archive().replace(b"escaped", b"damaged")])
def test_a_damaged_archive_is_one_line_and_fetched_anew(publisher: Publisher, tmp_path: Path, damaged: bytes) -> None:
    publisher.files["ml.zip"] = damaged
    with pytest.raises(InputError, match=r"ml\.zip: cannot be unpacked .*; run the command again"):
        download(found(publisher, "ml.zip"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publisher.files["ml.zip"] = archive()
    download(found(publisher, "ml.zip"), tmp_path / "out")


def test_names() -> None:
    assert data_set("ml-1m").reader == "ml-1m"
    assert data_set("amazon-2018/Gift_Cards").files[1].url.endswith("metaFiles2/meta_Gift_Cards.json.gz")
    with pytest.raises(InputError, match="unknown data set 'ml-2m'; known ones: ml-100k"):
        data_set("ml-2m")
    with pytest.raises(InputError, match="unknown data set"):
        data_set("amazon-2018/../x")


def test_the_licence_must_be_accepted(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(downloads.DATA_SETS, "ml-1m", found(publisher, "ml.zip"))
    refused = CliRunner().invoke(cli, ["data", "download", "ml-1m", "--out", str(tmp_path / "a")], input="n\n")
    assert refused.exit_code != 0
    assert not (tmp_path / "a").exists()
    done = CliRunner().invoke(cli, ["data", "download", "ml-1m", "--out", str(tmp_path / "a"), "--accept-licence"])
    assert done.exit_code == 0, done.output
    assert f"next: corella-edge prepare ml-1m --source {tmp_path / 'a'} --out data/a" in done.output
