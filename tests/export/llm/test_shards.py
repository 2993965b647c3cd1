"""Checkpoints in files of bounded size: all of a new one counts, or the previous one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.training import checkpoint  # noqa: E402

LIMIT = 4096


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", LIMIT)


def tensors(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"scalar": (), "one": (7,), "wide": (3, 200), "tall": (501, 11), "flat": (3000,), "none": (0, 4)}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "rng": torch.arange(5056, dtype=torch.uint8), "turned": found["tall"][:20].t()}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(
        found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in expected.items()
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_come_back_from_files_within_the_limit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, tensors(), {"done": False, "step": 3})
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert same(found[0], tensors())
    assert found[1] == {"done": False, "step": 3}
    checkpoint.save_tensors(tensors(), tmp_path / "best.safetensors", 3)
    assert same(checkpoint.load_tensors(tmp_path / "best.safetensors"), tensors())
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) > 10
    assert max(sizes) <= LIMIT + 1024  # and a header


def test_the_limit_is_under_16_mib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    assert checkpoint.SHARD_BYTES + (1 << 16) <= 16 << 20
    weights = {"a": torch.zeros(9000, 1000, dtype=torch.uint8), "b": torch.zeros(9000, 1000, dtype=torch.uint8),
               "c": torch.zeros(18000, 1000, dtype=torch.uint8)}  # fmt: skip
    checkpoint.save(tmp_path, 1, weights, {"done": False})
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 16 << 20
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert same(found[0], weights)


def test_nothing_to_keep_is_a_checkpoint_too(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {}, {"done": True})
    assert checkpoint.load(tmp_path) == ({}, {"done": True})
    assert checkpoint.finished(tmp_path)
    assert names(tmp_path) == ["checkpoint.json"]
    checkpoint.save_tensors({}, tmp_path / "best.safetensors", 1)
    assert checkpoint.load_tensors(tmp_path / "best.safetensors") == {}


class CutError(Exception):
    """The lights went out."""


def cut_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> Any:
    real, left = checkpoint.atomic.publish_file, [writes]

    def publish(temporary: Path, path: Path) -> None:
        if not left[0]:
            raise CutError
        left[0] -= 1
        real(temporary, path)

    monkeypatch.setattr(checkpoint.atomic, "publish_file", publish)
    return left


def test_a_crash_at_any_file_leaves_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = tmp_path / "best.safetensors"
    checkpoint.save(tmp_path, 1, tensors(1), {"done": False, "step": 1})
    checkpoint.save_tensors(tensors(1), best, 1)
    for writes in range(100):
        with monkeypatch.context() as patch:
            left = cut_after(patch, writes)
            try:
                checkpoint.save(tmp_path, 2, tensors(2), {"done": False, "step": 2})
            except CutError:
                found = checkpoint.load(tmp_path)
                assert found is not None
                assert found[1]["step"] == 1
                assert same(found[0], tensors(1))
            else:
                assert left[0] == 0
                break
    for count in range(100):
        with monkeypatch.context() as patch:
            cut_after(patch, count)
            try:
                checkpoint.save_tensors(tensors(2), best, 2)
            except CutError:
                assert same(checkpoint.load_tensors(best), tensors(1))
            else:
                break
    assert writes > 8
    assert count > 5
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert same(found[0], tensors(2))
    assert same(checkpoint.load_tensors(best), tensors(2))
    # Nothing of the first checkpoint and nothing half-written stays.
    assert not [name for name in names(tmp_path) if "0000001" in name or "partial" in name]


def test_fewer_tensors_leave_no_file_behind(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    checkpoint.save(tmp_path, 1, tensors(), {"done": False})
    checkpoint.save_tensors(tensors(), best, 1)
    (tmp_path / ".step-0000001-0.safetensors.partial").write_bytes(b"half")
    checkpoint.save(tmp_path, 2, {"one": torch.ones(2)}, {"done": False})
    checkpoint.save_tensors({"one": torch.ones(2)}, best, 2)
    assert names(tmp_path) == ["best.safetensors", "checkpoint.json", "step-0000002-0.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"12345678", b"\xff" * 100])
@pytest.mark.parametrize("pattern", ["step-*-1.safetensors", "checkpoint.json", "best.safetensors", "best-*-1.*"])
def test_a_damaged_file_is_named(tmp_path: Path, pattern: str, content: bytes | None) -> None:
    checkpoint.save(tmp_path, 1, tensors(), {"done": False})
    checkpoint.save_tensors(tensors(), tmp_path / "best.safetensors", 1)
    path = next(tmp_path.glob(pattern))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    if pattern == "checkpoint.json" and content is None:
        assert checkpoint.load(tmp_path) is None
        return
    best = path.name.startswith("best")
    with pytest.raises(InputError, match=path.name) as caught:
        _ = checkpoint.load_tensors(tmp_path / "best.safetensors") if best else checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": [], "state": {}}', '{"files": 3, "state": {"done": true}}'])
def test_another_json_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    for read in (checkpoint.load, checkpoint.finished):
        with pytest.raises(InputError, match=r"checkpoint\.json"):
            read(tmp_path)
