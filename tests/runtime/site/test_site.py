"""A site on disk: what is taken in, what is refused, who may change it, and what is never deleted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from corella_edge import atomic
from corella_edge.bundle import artefact as bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge_runtime.site import layout as site
from corella_edge_runtime.site.deployment import Deployment, promoted, rolled_back, with_canary
from corella_edge_runtime.site.layout import RunningVersion, Serving, VersionRefusal
from fake_versions import toy_bundle


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [toy_bundle(tmp_path / f"bundle-{i}", str(i)) for i in range(3)]


@pytest.fixture
def root(tmp_path: Path, bundles: list[Path]) -> Path:
    site.create(tmp_path / "site", bundles[0])
    return tmp_path / "site"


def test_a_site_begins_with_one_live_version(root: Path, bundles: list[Path]) -> None:
    version = site.version_id(bundles[0])
    assert version == f"toy@0+{bundle.sha256(bundles[0] / 'manifest.json')[:12]}"
    assert site.read(root) == Deployment(version)
    assert site.versions(root) == [version]
    assert Bundle.open(site.folder(root, version)).label == "toy@0"
    assert {path.name for path in root.iterdir()} == {"deployment.json", "versions"}
    with pytest.raises(InputError, match="site: is a site already; `deploy push` adds to it"):
        site.create(root, bundles[1])
    with pytest.raises(InputError, match=f"^{re.escape(str(root / 'versions'))}: exists and is not empty"):
        site.create(root / "versions", bundles[1])


def test_a_copy_does_not_share_files_with_its_source_but_with_its_siblings(root: Path, bundles: list[Path]) -> None:
    second, new = site.add(root, bundles[1])
    assert new
    copies = [root / "versions" / version for version in site.versions(root)]
    assert len({path.stat().st_ino for path in [bundles[1] / "crm.onnx", copies[0] / "crm.onnx"]}) == 2
    assert copies[0].joinpath("crm.onnx").samefile(copies[1] / "crm.onnx")
    assert site.add(root, bundles[1]) == (second, False)
    # What becomes of the source is none of the site's business.
    (bundles[1] / "crm.onnx").write_bytes(b"other")
    Bundle.open(site.folder(root, second))


def test_where_links_are_impossible_files_are_copied(
    root: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_link)
    version, _ = site.add(root, bundles[1])
    assert site.folder(root, version).joinpath("crm.onnx").stat().st_nlink == 1


def test_a_bad_bundle_is_refused_by_its_file_and_nothing_is_left(root: Path, bundles: list[Path]) -> None:
    before = sorted(path.name for path in root.rglob("*"))
    (bundles[1] / "crm.onnx").write_bytes(b"mOdel")
    with pytest.raises(BundleError, match=r"bundle-1: crm\.onnx: its contents differ"):
        site.add(root, bundles[1])
    (bundles[2] / "extra").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="extra: not a regular file"):
        site.add(root, bundles[2])
    with pytest.raises(BundleError, match="not a bundle"):
        site.add(root, root)
    assert sorted(path.name for path in root.rglob("*")) == before


def test_a_bundle_that_its_check_refuses_never_appears(root: Path, bundles: list[Path]) -> None:
    seen = []

    def check(copy: Path) -> None:
        seen.append(Bundle.open(copy).label)
        raise BundleError("other scores")

    with pytest.raises(BundleError, match="other scores"):
        site.add(root, bundles[1], check)
    assert seen == ["toy@1"]
    assert len(list((root / "versions").iterdir())) == 1


def test_a_file_that_changes_while_it_is_copied_is_noticed(
    root: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def changing(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "reference.jsonl":
            target.write_text("x")

    monkeypatch.setattr(site.shutil, "copyfile", changing)
    with pytest.raises(BundleError, match=r"bundle-1: its copy is not as exported: reference\.jsonl"):
        site.add(root, bundles[1])


def test_a_damaged_sibling_is_told_and_never_lends_its_files(root: Path, bundles: list[Path]) -> None:
    live = site.folder(root, site.read(root).live)
    (live / "manifest.sha256").write_text("x")
    version, _ = site.add(root, bundles[1])
    Bundle.open(site.folder(root, version))
    assert [row["bytes"] is None for row in site.status(root)["versions"]] == [True, False]


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "ü ber", "x" * 200, ""])
def test_any_name_and_version_make_one_safe_folder(tmp_path: Path, name: str, root: Path) -> None:
    version, _ = site.add(root, toy_bundle(tmp_path / "odd", name, name))
    folder = site.folder(root, version)
    assert folder.parent == root / "versions"
    assert version in site.versions(root)
    assert site.find(root, version[-12:]) == version


def test_a_version_may_be_abbreviated_where_it_is_unique(root: Path, bundles: list[Path]) -> None:
    first, (second, _) = site.read(root).live, site.add(root, bundles[1])
    for text in (second, "toy@1", "1+", second[-12:], second[-12:-3]):
        assert site.find(root, text) == second
    with pytest.raises(InputError, match="several versions") as caught:
        site.find(root, "toy")
    assert first in str(caught.value)
    assert second in str(caught.value)
    with pytest.raises(InputError, match="no version here"):
        site.find(root, "3")


def test_a_change_is_written_and_names_versions_that_are_there(root: Path, bundles: list[Path]) -> None:
    second, _ = site.add(root, bundles[1])
    before, after = site.change(root, lambda now: promoted(now, second))
    assert (before.live, after.live) == (after.previous, second)
    assert site.read(root) == after
    stamp = (root / "deployment.json").stat().st_mtime_ns
    assert site.change(root, lambda now: promoted(now, second)) == (after, after)
    assert (root / "deployment.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="is not there"):
        site.change(root, lambda now: promoted(now, "toy@9+000000000000"))
    shutil.rmtree(root / "versions" / after.previous)
    with pytest.raises(InputError, match="is not there"):
        site.change(root, rolled_back)
    assert site.read(root) == after


def test_two_deploys_can_not_interleave(root: Path, bundles: list[Path]) -> None:
    ids = [site.read(root).live, *(site.add(root, path)[0] for path in bundles[1:])]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: site.change(root, lambda now: promoted(now, ids[i % 3])), range(60)))
    done = sorted((after for before, after in results if before != after), key=lambda d: d.serial)
    assert [d.serial for d in done] == list(range(2, 2 + len(done)))
    assert all(later.previous == earlier.live for earlier, later in pairwise(done))
    assert site.read(root) == done[-1]


def test_who_waits_too_long_for_another_deploy_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "LOCK_SECONDS", 0.1)
    with site.locked(root), pytest.raises(InputError, match="another `corella-edge deploy` is at work"):
        site.change(root, lambda now: now)


def test_what_is_in_use_is_never_removed(root: Path, bundles: list[Path]) -> None:
    ids = [site.read(root).live, *(site.add(root, path)[0] for path in bundles[1:])]
    site.change(root, lambda now: with_canary(promoted(now, ids[1]), ids[2], 0.5))
    for version, role in zip(ids, ("previous", "live", "canary"), strict=True):
        with pytest.raises(InputError, match=f"is the {role} version"):
            site.remove(root, version)
    assert site.versions(root) == sorted(ids)


def test_a_version_that_a_server_still_serves_is_not_removed(root: Path, bundles: list[Path]) -> None:
    second, _ = site.add(root, bundles[1])
    site.write_serving(root, Serving(1, 1, RunningVersion(second, "toy@1", "2024-01-01")))
    lock = site.server_lock(root)
    with pytest.raises(InputError, match="still serves"):
        site.remove(root, second)
    os.close(lock)
    site.remove(root, second)
    assert second not in site.versions(root)
    assert len(list((root / "versions").iterdir())) == 1


def test_a_damaged_version_is_removed_and_can_be_added_again(root: Path, bundles: list[Path]) -> None:
    version, _ = site.add(root, bundles[1])
    (root / "versions" / version / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        site.add(root, bundles[1])
    site.remove(root, version)
    assert site.add(root, bundles[1]) == (version, True)
    with pytest.raises(InputError, match="cannot be removed"):
        site.remove(root, "toy@9+000000000000")


def test_one_server_at_a_time_and_the_lock_ends_with_its_process(root: Path) -> None:
    code = ("import sys; from pathlib import Path; from corella_edge_runtime.site import layout;"
            "layout.server_lock(Path(sys.argv[1]));"
            "print('held', flush=True); sys.stdin.read()")  # fmt: skip
    other = subprocess.Popen(
        [sys.executable, "-c", code, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert site.server_runs(root)
        with pytest.raises(InputError, match="another server serves it"):
            site.server_lock(root)
        # A deploy is not kept out.
        site.change(root, lambda now: now)
    finally:
        other.kill()
        other.communicate()
    assert not site.server_runs(root)
    os.close(site.server_lock(root))


def test_looking_whether_a_server_runs_never_keeps_one_from_starting(root: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            site.server_runs(root)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            os.close(site.server_lock(root))
    finally:
        stop.set()
        looking.join()


def test_what_a_server_says_of_itself_comes_back(root: Path) -> None:
    assert site.read_serving(root) is None
    live, canary = RunningVersion("a", "toy@0", "2024-01-01"), RunningVersion("b", "toy@1", "2024-01-02", 0.25)
    for state in (
        Serving(7),
        Serving(7, 3, live),
        Serving(7, 4, live, canary, VersionRefusal("c", 4, "2024-01-03", "träge")),
    ):
        site.write_serving(root, state)
        assert site.read_serving(root) == state
    assert state.loaded() == {"a", "b"}
    for damaged in ("", "[]", "{}", '{"pid": 1, "live": 3, "canary": null, "refused": null}'):
        (root / "serving.json").write_text(damaged)
        assert site.read_serving(root) is None


def test_what_became_of_a_deployment() -> None:
    wanted, live = Deployment("a", serial=5), RunningVersion("a", "toy@0", "")
    assert site.outcome(None, wanted) == site.outcome(Serving(1, 4, live), wanted) == "waiting"
    assert site.outcome(Serving(1, 5, live), wanted) == "serving"
    assert site.outcome(Serving(1, 5, live, None, VersionRefusal("a", 4, "", "")), wanted) == "serving"
    assert site.outcome(Serving(1, 5, live, None, VersionRefusal("a", 5, "", "")), wanted) == "refused"
    assert site.outcome(Serving(1, 6, live), wanted) == "superseded"


def test_a_damaged_deployment_names_the_file(root: Path) -> None:
    for content, part in (("{", "not JSON"), ("[]", "expected an object"), ('{"live": 1, "live": 2}', "occurs twice"),
                          ("x" * 2**21, "larger than")):  # fmt: skip
        (root / "deployment.json").write_text(content)
        with pytest.raises(InputError) as caught:
            site.read(root)
        assert f"{root / 'deployment.json'}: " in str(caught.value)
        assert part in str(caught.value)
    (root / "deployment.json").unlink()
    with pytest.raises(InputError, match="not a site"):
        site.read(root)


def test_the_status_says_roles_sizes_and_the_server(root: Path, bundles: list[Path]) -> None:
    first, (second, _) = site.read(root).live, site.add(root, bundles[1])
    site.change(root, lambda now: with_canary(promoted(now, second), first, 0.25))
    found = site.status(root)
    assert json.loads(json.dumps(found)) == found
    assert [(row["version"], row["roles"]) for row in found["versions"]] == [
        (first, ["previous", "canary"]),
        (second, ["live"]),
    ]
    assert all(row["bytes"] == sum(e.size for e in Bundle.open(b).manifest.files.values())
               for row, b in zip(found["versions"], bundles, strict=False))  # fmt: skip
    assert found["server"] is None
    lock = site.server_lock(root)
    assert site.status(root)["server"]["live"] is None
    os.close(lock)


def test_names_and_versions_that_occur_twice_are_found(root: Path, bundles: list[Path], tmp_path: Path) -> None:
    version, _ = site.add(root, toy_bundle(tmp_path / "again", "0", model=b"other"))
    assert site.namesakes(root, version) == [site.version_id(bundles[0])]
    second, _ = site.add(root, bundles[1])
    assert site.namesakes(root, second) == []


def test_a_kill_while_adding_leaves_nothing_that_counts(root: Path, bundles: list[Path]) -> None:
    version = site.version_id(bundles[1])
    partial = root / "versions" / f".{version}.partial"
    partial.mkdir()
    (partial / "crm.onnx").write_bytes(b"half")
    assert version not in site.versions(root)
    assert site.add(root, bundles[1]) == (version, True)
    assert not partial.exists()
    with (
        atomic.new_folder(root / "versions" / site.version_id(bundles[2])),
        pytest.raises(InputError, match="another run"),
    ):
        site.add(root, bundles[2])


def test_a_version_brings_its_signature_and_one_that_lacks_it_is_refused_where_a_key_is_trusted(
    root: Path, bundles: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("minisign")
    from corella_edge.bundle.signature import new_key, sign

    key = new_key(tmp_path / "key", "")
    version, _ = site.add(root, bundles[1])
    with pytest.raises(BundleError, match="not signed"):
        site.add(root, bundles[1], trust=key)
    sign(bundles[1], tmp_path / "key", str)
    # It was there unsigned, and is the same version: the signature is laid beside it.
    assert site.add(root, bundles[1], trust=key) == (version, False)
    assert Bundle.open(site.folder(root, version), key).label == "toy@1"
    sign(bundles[2], tmp_path / "key", str)
    signed, _ = site.add(root, bundles[2], trust=key)
    Bundle.open(site.folder(root, signed), key)
    with pytest.raises(BundleError, match="not signed"):
        site.create(tmp_path / "other", bundles[0], trust=key)
    assert not (tmp_path / "other").exists()
