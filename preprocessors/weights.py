"""The detectors' published weights: pinned, hashed, unpickled once, kept as safetensors.

`scar.weights.pins.DETECTOR_PINS` names every file by repository, commit and SHA-256; a file whose
hash differs is never opened. `.pth` files are read with `weights_only=True`, stripped of their
wrappers and written once as safetensors; later loads never unpickle. The safetensors copy is
checked against the hash that was recorded beside it when it was written.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal

from scar.errors import WeightsError
from scar.weights.pins import DETECTOR_PINS, Pin, file_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Literal["ready", "missing", "downloading"]


_downloading: set[str] = set()
_lock = threading.Lock()


def fill(network: nn.Module, name: str) -> nn.Module:
    """Load the weights called `name` into `network`, strictly, and freeze it.

    Downloads them first if they are not on this machine. Raises `WeightsError`.
    """
    state = load(name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        pin = DETECTOR_PINS[name]
        raise WeightsError(
            f"{pin.file} does not fit the network in {pin.runtime}; "
            f"install the version of {pin.runtime} this project pins."
        ) from error
    return network.eval().requires_grad_(False)


def load(name: str) -> dict[str, Tensor]:
    """The state dict called `name`, from the safetensors copy or, the first time, the original."""
    from safetensors.torch import load_file

    copy = _copy(DETECTOR_PINS[name])
    if not _intact(copy):
        download(name)
    return load_file(copy)


def state(name: str) -> State:
    """Whether the file called `name` is on this machine; answers at once, without reading it."""
    if name in _downloading:
        return "downloading"
    pin = DETECTOR_PINS[name]
    return "ready" if os.path.isfile(_copy(pin)) or _original(pin) else "missing"


def explain(name: str, state: State) -> str:
    """One sentence for people about `state`."""
    weights = f"The {name} weights ({DETECTOR_PINS[name].megabytes} MB)"
    if state == "ready":
        return f"{weights} are on this machine."
    if state == "downloading":
        return f"{weights} are being downloaded."
    offline = " and HF_HUB_OFFLINE forbids fetching them" if _offline() else ""
    return f"{weights} are not on this machine{offline}."


def download(name: str) -> None:
    """Fetch the file called `name` if needed, verify it, and write the safetensors copy."""
    if name not in DETECTOR_PINS:
        raise WeightsError(f"There are no weights {name!r}; there are: {', '.join(DETECTOR_PINS)}.")
    pin = DETECTOR_PINS[name]
    with _lock:
        if _intact(_copy(pin)):
            return
        _downloading.add(name)
        try:
            original = _original(pin) or _fetch(pin)
            if file_sha256(original) != pin.sha256:
                raise WeightsError(
                    f"{original} is not the published {pin.file} (its SHA-256 differs), so it was "
                    f"not opened; delete it and run `{_command(pin)}`."
                )
            _write_copy(_unwrapped(original, pin), pin)
        finally:
            _downloading.discard(name)


def cache_folder() -> Path:
    """Where the safetensors copies live: $SCAR_CACHE, or scar/preprocessors in the user cache, or
    without a home in the folder for temporary files."""
    if chosen := os.environ.get("SCAR_CACHE"):
        return Path(chosen)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user of a container may have no home
        home = tempfile.gettempdir()
    return Path(home) / "scar" / "preprocessors"


def _fetch(pin: Pin) -> Path:
    from huggingface_hub import hf_hub_download

    if _offline():
        raise WeightsError(
            f"{explain(pin.name, 'missing')[:-1]}; run `{_command(pin)}` once with a network, "
            "or use the embedded backend."
        )
    try:
        return Path(hf_hub_download(pin.repo, pin.file, revision=pin.revision))
    except Exception as error:
        # Anything from DNS to a full disk: the cause stays attached for whoever debugs it.
        raise WeightsError(
            f"{pin.file} could not be downloaded from {pin.repo}; check the network and run "
            f"`{_command(pin)}`, or use the embedded backend."
        ) from error


def _unwrapped(original: Path, pin: Pin) -> dict[str, Tensor]:
    """The bare state dict: without "state_dict" around it, without "module." before its names."""
    import torch
    from safetensors.torch import load_file

    if original.suffix == ".safetensors":
        return load_file(original)
    try:
        content = torch.load(original, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(f"{pin.file} holds more than tensors, so it was not used.") from error
    content = content.get("state_dict", content)
    return {k.removeprefix("module."): v.clone().contiguous() for k, v in content.items()}


def _write_copy(tensors: dict[str, Tensor], pin: Pin) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copy = _copy(pin)
    record = {"repo": pin.repo, "revision": pin.revision, "original": pin.sha256}
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, copy)  # written aside and renamed: a crash leaves no half file
        copy.chmod(0o644)
        _record(copy).write_text(
            json.dumps(record | {"sha256": file_sha256(copy)}, indent=2) + "\n"
        )
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"The weights folder {copy.parent} cannot be written; make room there or set "
            "SCAR_CACHE to another folder."
        ) from error


def _intact(copy: Path) -> bool:
    try:
        return json.loads(_record(copy).read_text())["sha256"] == file_sha256(copy)
    except (OSError, ValueError, KeyError):
        return False


def _original(pin: Pin) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pin.repo, pin.file, revision=pin.revision)
    return Path(found) if isinstance(found, str) else None


def _copy(pin: Pin) -> Path:
    return cache_folder() / f"{pin.name}-{pin.sha256[:12]}.safetensors"


def _record(copy: Path) -> Path:
    return copy.with_suffix(".json")


def _command(pin: Pin) -> str:
    return f"python -m preprocessors download {pin.name}"


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
