"""The external weights that this version can read, one entry each. What can be done with them is in ``assets``.

Size and checksum of some files are not known to this version; they stay None.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


def home() -> Path:
    """The asset folder: ``$ZERO1TOA_HOME``, or ``zero1toa`` in the user's data folder."""
    if folder := os.environ.get("ZERO1TOA_HOME"):
        return Path(folder).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data).expanduser() if data else Path.home() / ".local" / "share") / "zero1toa"


def _rembg_folder() -> Path:
    """Where rembg itself keeps its models (its own environment variables and default)."""
    own = os.environ.get("U2NET_HOME") or os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net")
    return Path(own).expanduser()


def _torch_folder() -> Path:
    """Where torchvision keeps downloaded checkpoints (torch's own environment variables and default)."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    own = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(own).expanduser() / "hub" / "checkpoints"


@dataclasses.dataclass(frozen=True)
class Asset:
    """One external file.

    Attributes:
        name: what ``zero1toa assets install`` calls it.
        file: file name, in a folder of the asset folder where its name alone says too little.
        purpose: what it improves.
        instead: the embedded fallback that is used without it.
        licence: licence of the weights.
        source: where the user gets it.
        size: bytes; None where its publisher does not tell.
        checksum: ``algorithm:hex`` as its publisher gives it; None where it does not.
        magic: leading bytes of the format, any of these.
        shared: folders of other programs in which the same file may lie already.
        original: name of the file that the user gets, where it is kept under another one, or converted to ``file``.
        importer: function that converts it, ``module:function`` with the asset's name, the given file and the target;
            it checks the file itself. By name, because it lies in a package that builds on this module.
    """

    name: str
    file: str
    purpose: str
    instead: str
    licence: str
    source: str
    size: int | None
    checksum: str | None
    magic: tuple[bytes, ...]
    shared: tuple[Path, ...] = ()
    original: str | None = None
    importer: str | None = None

    @property
    def download(self) -> str:
        """Name of the file that the user gets, and that ``install`` is given."""
        return self.original or Path(self.file).name

    @property
    def places(self) -> tuple[Path, ...]:
        """Where the file is looked for, in this order; the first is where ``install`` puts it."""
        return (home() / self.file, *(folder / self.file for folder in self.shared))

    def find(self) -> Path | None:
        """The first place that holds a file of the right size (of any, where the size is unknown), or None."""
        for place in self.places:
            if place.is_file() and self.size in (None, place.stat().st_size):
                return place
        return None


class _RembgModel(NamedTuple):
    """File of rembg's release, licence of the weights, checksum, and size where it is known."""

    download: str
    licence: str
    checksum: str
    size: int | None = None


# By rembg's name of the model. Checksums are those that rembg itself compares (the default model's is a stronger one of
# the same file); it publishes no sizes. Left out are the models of rembg that need prompts (sam) or find something else
# than a person (clothes, drawn characters, camouflaged animals).
_REMBG = {
    "u2net": _RembgModel(
        "u2net.onnx",
        "Apache-2.0",
        "sha256:8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        175_997_641,
    ),
    "u2netp": _RembgModel("u2netp.onnx", "Apache-2.0", "md5:8e83ca70e441ab06c318d82300c84806"),
    "u2net_human_seg": _RembgModel("u2net_human_seg.onnx", "Apache-2.0", "md5:c09ddc2e0104f800e3e1bb4652583d1f"),
    "silueta": _RembgModel("silueta.onnx", "Apache-2.0, of U2-Net", "md5:55e59e0d8062d2f5d013f4725ee84782"),
    "isnet-general-use": _RembgModel("isnet-general-use.onnx", "Apache-2.0", "md5:fc16ebd8b0c10d971d3513d564d01e29"),
    "birefnet-portrait": _RembgModel("BiRefNet-portrait-epoch_150.onnx", "MIT", "md5:c3a64a6abf20250d090cd055f12a3b67"),
    "birefnet-general": _RembgModel("BiRefNet-general-epoch_244.onnx", "MIT", "md5:7a35a0141cbbc80de11d9c9a28f52697"),
    "birefnet-general-lite": _RembgModel(
        "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx", "MIT", "md5:4fab47adc4ff364be1713e97b7e66334"
    ),
    "birefnet-dis": _RembgModel("BiRefNet-DIS-epoch_590.onnx", "MIT", "md5:2d4d44102b446f33a4ebb2e56c051f2b"),
    "birefnet-hrsod": _RembgModel("BiRefNet-HRSOD_DHU-epoch_115.onnx", "MIT", "md5:c017ade5de8a50ff0fd74d790d268dda"),
    "birefnet-massive": _RembgModel(
        "BiRefNet-massive-TR_DIS5K_TR_TEs-epoch_420.onnx", "MIT", "md5:33e726a2136a3d59eb0fdf613e31e3e9"
    ),
    "bria-rmbg": _RembgModel(
        "bria-rmbg-2.0.onnx",
        "CC BY-NC 4.0: non-commercial",
        "sha256:5b486f08200f513f460da46dd701db5fbb47d79b4be4b708a19444bcd4e79958",
    ),
}

REMBG_MODELS = tuple(_REMBG)
"""Names of rembg's models that tell a person from the background; each is the name of an asset, too."""


def catalog() -> tuple[Asset, ...]:
    """Every asset; read anew at each call because the folders follow the environment."""
    default, *others = (_rembg(name, model) for name, model in _REMBG.items())
    return (
        default,
        Asset(
            name="face-landmarker",
            file="face_landmarker.task",
            purpose="blendshapes of driving videos; landmarks where MediaPipe has no models (1.x, beside numpy 2)",
            instead="the models inside MediaPipe 0.10.21, with landmark fitting",
            licence="Apache-2.0",
            source="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
            size=3_758_596,
            checksum="sha256:64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            magic=(b"PK\x03\x04",),
        ),
        Asset(
            name="vgg16",
            file="vgg16-397923af.pth",
            purpose="LPIPS perceptual loss",
            instead="multi-scale gradient + SSIM loss",
            licence="BSD-3-Clause (torchvision); trained on ImageNet",
            source="https://download.pytorch.org/models/vgg16-397923af.pth",
            size=553_433_881,
            checksum="sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            magic=(b"PK\x03\x04", b"\x80\x02"),
            shared=(_torch_folder(),),
        ),
        _flame("flame2020", "generic_model.pkl", "FLAME 2020"),
        _flame("flame2023", "flame2023.pkl", "FLAME 2023 (jaw rotation)"),
        _flame("flame2023_no_jaw", "flame2023_no_jaw.pkl", "FLAME 2023 without jaw rotation"),
        _flame("flame2023_open", "flame2023_Open.pkl", "FLAME 2023 Open", "CC-BY-4.0, as its readme says"),
        *_animators(),
        *others,
    )


def _rembg(name: str, model: _RembgModel) -> Asset:
    """One of rembg's models, under the file name that rembg gives it, so that rembg's own download is found."""
    file = f"{name}.onnx"
    return Asset(
        name=name,
        file=file,
        purpose="background removal by rembg",
        instead="MediaPipe segmentation refined with pymatting",
        licence=model.licence,
        source=f"https://github.com/danielgatis/rembg/releases/download/v0.0.0/{model.download}",
        size=model.size,
        checksum=model.checksum,
        magic=(b"\x08",),
        shared=(_rembg_folder(),),
        original=None if model.download == file else model.download,
    )


def _flame(name: str, original: str, title: str, licence: str | None = None) -> Asset:
    """An edition of FLAME; MPI gives neither sizes nor checksums, so the importer looks at the content."""
    return Asset(
        name=name,
        file=f"{name}.npz",
        purpose=f"head model {title}, as head={name}",
        instead="the canonical head in the package",
        licence=licence or "MPI, non-commercial research, registration",
        source="https://flame.is.tue.mpg.de",
        size=None,
        checksum=None,
        magic=(b"\x80", b"("),
        original=original,
        importer="zero1toa.head.flame.derive:install_flame",
    )


def _animators() -> Iterator[Asset]:
    """Checkpoints of the public portrait animators."""
    torch_file, safetensors = (b"PK\x03\x04", b"\x80\x02"), (b"",)
    apache = "Apache-2.0 (code); of the weights none is stated in the repository"
    for prefix, folder, licence, source, names in (
        (
            "follow-your-emoji",
            "follow_your_emoji",
            "none is stated, neither for code nor weights: ask the authors",
            "https://huggingface.co/YueMafighting/FollowYourEmoji",
            ("unet", "referencenet", "lmk_guider"),
        ),
        (
            "aniportrait",
            "aniportrait",
            apache,
            "https://huggingface.co/ZJYang/AniPortrait",
            ("denoising_unet", "motion_module", "reference_unet", "pose_guider"),
        ),
        (
            "echomimic",
            "echomimic",
            apache,
            "https://huggingface.co/BadToBest/EchoMimic",
            ("denoising_unet_pose", "motion_module_pose", "reference_unet_pose", "face_locator_pose"),
        ),
    ):
        for name in names:
            yield Asset(
                name=f"{prefix}-{name.removesuffix('_pose').replace('_', '-')}",
                file=f"{folder}/{name}.pth",
                purpose=f"backbone {folder}",
                instead="the compact backbone",
                licence=licence,
                source=source,
                size=None,
                checksum=None,
                magic=torch_file,
            )
    yield Asset(
        name="sd-vae",
        file="sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        purpose="backbones follow_your_emoji, aniportrait, echomimic",
        instead="the compact backbone",
        licence="MIT",
        source="https://huggingface.co/stabilityai/sd-vae-ft-mse",
        size=None,
        checksum=None,
        magic=safetensors,
    )
    yield Asset(
        name="clip-image-encoder",
        file="image_encoder/pytorch_model.bin",
        purpose="backbones follow_your_emoji, aniportrait",
        instead="the compact backbone",
        licence="CreativeML OpenRAIL-M",
        source="https://huggingface.co/lambdalabs/sd-image-variations-diffusers (folder image_encoder)",
        size=None,
        checksum=None,
        magic=torch_file,
    )
