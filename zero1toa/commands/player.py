"""Opening a bundle for playing: its head model, its device."""

from __future__ import annotations

from pathlib import Path

from zero1toa.errors import ConfigError
from zero1toa.evaluation.playback import AvatarPlayer


def choose_device(wanted: str) -> str:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: for another name, or ``cuda`` where torch finds no GPU.
    """
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{wanted}' is unknown; choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch finds no CUDA GPU here; use device=cpu, or install a CUDA torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def open_player(path: Path, device: str) -> AvatarPlayer:
    """Read the bundle at ``path`` with its head model.

    Args:
        path: bundle folder, or the output folder of ``generate`` that holds it as ``avatar``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BundleError: for a damaged, incomplete or newer bundle.
        ConfigError: for an unknown device.
        HeadModelError: when its head model is not installed.
    """
    from zero1toa.avatar.bundle import exists, read_bundle
    from zero1toa.head.registry import head_names, load_head

    place = choose_device(device)
    if not exists(path) and exists(path / "avatar"):
        path = path / "avatar"
    edition = read_bundle(path).head
    # Bundles name the edition (``canonical-1``), the registry the model; reading with the head checks that they agree.
    head = load_head(next((name for name in head_names() if edition.startswith(f"{name}-")), edition))
    return AvatarPlayer(read_bundle(path, head), head, place)
