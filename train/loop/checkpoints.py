"""Checkpoints that are either whole or not there.

A checkpoint is a folder `step-00000500` with `model.safetensors`, `optimizer.safetensors`,
`ema.safetensors`, `trainer.json`, and `MANIFEST.json` with the size and SHA-256 of each. It is
written under another name, flushed, and renamed; older ones are removed only after that. Nothing is
pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from scar.errors import ScarError

MANIFEST = "MANIFEST.json"
PUBLISHED = re.compile(r"step-(\d{8,18})", re.ASCII)


class CheckpointError(ScarError):
    """A checkpoint could not be written or none of those on disk can be read."""


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], metadata: dict, keep: int
) -> Path:
    """Publish a checkpoint atomically, then remove all but the newest `keep`.

    Args:
        tensors: file stem -> state dict.
        metadata: JSON-ready, stored as trainer.json.

    Raises:
        CheckpointError: the disk is full or not writable; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, scratch = path_of(folder, step), folder / f".tmp-{step:08d}-{os.getpid()}"
    for unfinished in folder.glob(".tmp-*"):
        _remove(unfinished)
    try:
        scratch.mkdir()
        for stem, state in tensors.items():
            save_file(_copied(state), scratch / f"{stem}.safetensors")
        (scratch / "trainer.json").write_text(json.dumps({"step": step, **metadata}, indent=1))
        manifest = {p.name: [p.stat().st_size, _digest(p)] for p in sorted(scratch.iterdir())}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*scratch.iterdir(), scratch):
            _flush(path)
        if final.exists():
            _remove(final)
        os.rename(scratch, final)
        _flush(folder)
    except Exception as error:  # safetensors reports a full disk as its own error type
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written: {error}"
        ) from error
    for old in steps(folder)[:-keep]:
        _remove(path_of(folder, old))
    return final


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Read one verified checkpoint: (file stem -> state dict, metadata).

    The tensors are mapped from the files, so the processes of a node hold them once.
    """
    tensors = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
    return tensors, load_metadata(path)


def load_metadata(path: Path) -> dict:
    return json.loads((path / "trainer.json").read_text())


def newest(folder: Path, report=print) -> Path | None:
    """The newest checkpoint whose manifest holds; damaged ones are named through `report`.

    Raises:
        CheckpointError: there are checkpoints and all of them are damaged.
    """
    found = steps(folder)
    for step in reversed(found):
        path = path_of(folder, step)
        fault = damage(path)
        if fault is None:
            return path
        report(f"skipping {path.name}: {fault}")
    if found:
        raise CheckpointError(f"every checkpoint in {folder} is damaged; remove them to start over")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, (size, digest) in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _digest(file) != digest:
            return f"{name} does not match its hash"
    return None


def identity(path: Path) -> str:
    """A digest that checkpoints of the same content share; "" where there is none."""
    manifest = path / MANIFEST
    return _digest(manifest) if manifest.is_file() else ""


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[int]:
    """Steps of the published checkpoints, oldest first; copies by other names are none."""
    names = (PUBLISHED.fullmatch(path.name) for path in folder.glob("step-*"))
    found = {int(name[1]) for name in names if name}
    return sorted(step for step in found if (folder / f"step-{step:08d}").is_dir())


def _remove(path: Path) -> None:
    """A folder, or a link to one that was moved to another disk."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: safetensors refuses tensors that share memory."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
