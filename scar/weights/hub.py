"""Downloads from the Hub: checkpoint folders and single published files, by name and commit."""

from __future__ import annotations

import re
from pathlib import Path

from scar.assets import EMBEDDED
from scar.errors import WeightsError
from scar.weights.pins import CHECKPOINT_PINS, file_sha256

_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+)@(?P<commit>[0-9a-f]{40})")


def checkpoint_folder(source: str | Path) -> Path:
    """A folder here, "embedded", or a Hub id: owner/name or owner/name@commit.

    Raises:
        WeightsError: it is none of them, or could not be fetched.
    """
    if source == "embedded":
        return EMBEDDED
    path = _local(source)
    if path.is_dir():
        return path
    name, _, revision = str(source).partition("@")
    if path.exists() or name.count("/") != 1:
        raise WeightsError(f"{source} is neither a checkpoint folder nor a Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json"]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # the client has many classes of error
        raise WeightsError(
            f"{source} is not a folder here and could not be fetched from the Hub "
            f"({type(error).__name__}); check the name and the connection, or use the "
            "embedded model"
        ) from error


def published_file(source: str | Path, sha256: str = "") -> Path:
    """A file here, or one of the Hub: owner/name/file@commit, which has to hash to `sha256`.

    Args:
        sha256: 64 hex digits. Without it a file here is taken as it is, and one of the Hub has to
            hash to what `CHECKPOINT_PINS` says of its name.

    Raises:
        WeightsError: there is no such file, its hash is unknown or another, or it could not be
            fetched.
    """
    path = _local(source)
    if not path.is_file():
        path, sha256 = _fetched(str(source), sha256)
    if sha256 and (found := file_sha256(path)) != sha256.lower():
        raise WeightsError(f"{path.name} is not the file asked for: its SHA-256 is {found}")
    return path


def _local(source: str | Path) -> Path:
    """The path, with ~ expanded. Raises WeightsError if it cannot be one."""
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # the name is too long, or ~user does not exist
        named = str(source) if len(str(source)) <= 80 else f"{str(source)[:80]}..."
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{named} is neither a path here nor a Hub id: {reason}") from None
    return path


def _fetched(source: str, sha256: str) -> tuple[Path, str]:
    """Download a file of the Hub -> its path, and the hash it must have."""
    named = _FILE.fullmatch(source)
    if named is None:
        raise WeightsError(
            f"there is no file {source}; one of the Hub is named owner/name/file@commit"
        )
    file = named["file"]
    name = Path(file).name
    if not sha256 and name in CHECKPOINT_PINS:
        sha256 = CHECKPOINT_PINS[name].sha256
    if not sha256:
        raise WeightsError(
            f"say what {file} has to hash to, --sha256 HEX: its page on the Hub shows it"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(named["repository"], file, revision=named["commit"])), sha256
    except Exception as error:  # as above
        raise WeightsError(
            f"{file} could not be fetched from the Hub ({type(error).__name__}); check the name "
            "and the connection, or name a file on this machine"
        ) from error
