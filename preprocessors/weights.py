"""The detectors' published weights: pinned, hashed, unpickled once, kept as safetensors.

Every file is named by repository, revision and SHA-256. A file that hashes differently is never
opened. `.pth` files are read with `weights_only=True`, stripped of their wrappers and written once
as safetensors; later loads never unpickle. The safetensors copy is checked against the hash that
was recorded beside it when it was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Literal["ready", "missing", "downloading"]


class WeightsError(RuntimeError):
    """Weights that cannot be used; the message is one sentence saying why and what to do."""


@dataclass(frozen=True)
class Pin:
    """One published file: where it is, what it must hash to, and the package that runs it."""

    name: str
    repo: str
    revision: str
    file: str
    sha256: str
    megabytes: int
    package: str = "controlnet_aux"


ANNOTATORS = ("lllyasviel/Annotators", "982e7edaec38759d914a963c48c4726685de7d96")
DEPTH_ANYTHING = (
    "depth-anything/Depth-Anything-V2-Small-hf",
    "5426e4f0f36572d16453bbda7a8389317b1bef99",
)

# Each hash is the one that independent public projects pinning the same file agree on; for
# depth-anything also the one on the Hub's page of the file.
PINNED = {
    pin.name: pin
    for pin in (
        Pin(
            "hed", *ANNOTATORS, "ControlNetHED.pth",
            "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa", 29,
        ),
        Pin(
            "pidinet", *ANNOTATORS, "table5_pidinet.pth",
            "80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c", 3,
        ),
        Pin(
            "lineart", *ANNOTATORS, "sk_model.pth",
            "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6", 17,
        ),
        Pin(
            "lineart-coarse", *ANNOTATORS, "sk_model2.pth",
            "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0", 17,
        ),
        Pin(
            "midas", *ANNOTATORS, "dpt_hybrid-midas-501f0c75.pt",
            "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853", 493,
        ),
        Pin(
            "depth-anything", *DEPTH_ANYTHING, "model.safetensors",
            "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70", 99, "transformers",
        ),
    )
}  # fmt: skip

_downloading: set[str] = set()
_lock = threading.Lock()


def fill(network: nn.Module, name: str) -> nn.Module:
    """Load the weights called `name` into `network`, strictly, and freeze it.

    Downloads them first if they are not on this machine. Raises `WeightsError`.
    """
    try:
        network.load_state_dict(load(name))
    except RuntimeError as error:
        if isinstance(error, WeightsError):
            raise
        pin = PINNED[name]
        raise WeightsError(
            f"{pin.file} does not fit the network in {pin.package}; "
            f"install the version of {pin.package} this project pins."
        ) from error
    return network.eval().requires_grad_(False)


def load(name: str) -> dict[str, Tensor]:
    """The state dict called `name`, from the safetensors copy or, the first time, the original."""
    from safetensors.torch import load_file

    copy = _copy(PINNED[name])
    if not _intact(copy):
        download(name)
    return load_file(copy)


def state(name: str) -> State:
    """Whether the file called `name` is on this machine; answers at once, without reading it."""
    if name in _downloading:
        return "downloading"
    pin = PINNED[name]
    return "ready" if os.path.isfile(_copy(pin)) or _original(pin) else "missing"


def explain(name: str, state: State) -> str:
    """One sentence for people about `state`."""
    weights = f"The {name} weights ({PINNED[name].megabytes} MB)"
    if state == "ready":
        return f"{weights} are on this machine."
    if state == "downloading":
        return f"{weights} are being downloaded."
    offline = " and HF_HUB_OFFLINE forbids fetching them" if _offline() else ""
    return f"{weights} are not on this machine{offline}."


def download(name: str) -> None:
    """Fetch the file called `name` if needed, verify it, and write the safetensors copy."""
    if name not in PINNED:
        raise WeightsError(f"There are no weights {name!r}; there are: {', '.join(PINNED)}.")
    pin = PINNED[name]
    with _lock:
        if _intact(_copy(pin)):
            return
        _downloading.add(name)
        try:
            original = _original(pin) or _fetch(pin)
            if _sha256(original) != pin.sha256:
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
        _record(copy).write_text(json.dumps(record | {"sha256": _sha256(copy)}, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"The weights folder {copy.parent} cannot be written; make room there or set "
            "SCAR_CACHE to another folder."
        ) from error


def _intact(copy: Path) -> bool:
    try:
        return json.loads(_record(copy).read_text())["sha256"] == _sha256(copy)
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
