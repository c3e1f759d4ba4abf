"""Configuration: structured dataclasses, one per package, every field documented.

A run's configuration is ``preset file < user file < key=value``, merged by OmegaConf against these dataclasses, so an
unknown key or a wrong type fails before any work is done, with the nearest valid name. A preset whose file has a
``preset`` key itself builds on that one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zero1toa.errors import ConfigError, nearest


@dataclass
class PortraitConfig:
    """From the photo to the carved, fitted portrait."""

    size: int = 512
    """Side of the square crop in pixels."""
    matting: str = "auto"
    """``auto`` (rembg when its model file is installed, else MediaPipe + pymatting), ``rembg`` or ``mediapipe``."""
    matting_model: str = "u2net"
    """rembg's model: ``u2net``, ``u2netp``, ``u2net_human_seg``, ``silueta``, ``isnet-general-use``,
    ``birefnet-portrait``, ``birefnet-general``, ``birefnet-general-lite``, ``birefnet-dis``, ``birefnet-hrsod``,
    ``birefnet-massive`` or ``bria-rmbg``; the asset of that name is its file."""
    face: int = -1
    """Index of the face to use, by size (0 = largest); -1 takes the largest and announces the others."""
    min_face: int = 64
    """Smallest accepted face height in pixels of the photo."""
    max_yaw: float = 55.0
    """Largest accepted head yaw in degrees; beyond it half of the face is unseen."""
    shape_from: str = ""
    """Result of MICA, DECA, EMOCA or SMIRK on this photo whose identity is taken instead of fitting one, with
    ``head=flame2020``; the camera is fitted all the same."""
    expression_from: str = ""
    """Result of DECA, EMOCA or SMIRK on this photo whose expression and jaw are taken, with ``head=flame2020``."""


@dataclass
class AvatarConfig:
    """The rigged Gaussians (paper sec. 3.2; reference: GaussianAvatars)."""

    gaussians_per_triangle: int = 10
    """1, 3, 6 or 10 Gaussians on each triangle, evenly spread (the paper: 10)."""
    by_region: bool = True
    """Spend fewer on eyeballs and neck, more on the scalp and on long triangles (an addition to the paper)."""
    opacity: float = 0.1
    """Initial opacity."""
    lid_opacity: float = 0.9
    """Initial opacity near the eyelids, which a thin closed lid needs to hide the eyeball (paper sec. 4.2)."""
    projected_opacity: float = 0.95
    """Initial opacity of every Gaussian when the portrait is projected: colours are known, so the surface is closed."""
    project_portrait: bool = True
    """Colour the Gaussians by projecting the portrait before the first step (an addition to the paper)."""
    keep_margins: bool = True
    """Leave the Gaussians of eyes, lids and the lips' inner margins as they were made: they turn and fold away, and
    training on what one picture shows there would smear gaze, lashes and teeth (an addition to the paper)."""
    facing_only: bool = True
    """Let a picture train Gaussians by how squarely it shows their surface, and clips only those that the portrait does
    not show clearly. What shows as a sliver along an outline would take on its rounding errors, and be a seam from
    elsewhere (an addition to the paper)."""
    landmark_offset: bool = True
    """Move the fitted head's vertices onto the portrait's landmarks before binding (an addition to the paper)."""
    hair_volume: bool = True
    """Lift the scalp to the outline of the portrait's hair before binding, and with ``project_portrait`` draw what is
    loose beyond it (an addition to the paper)."""


@dataclass
class LossConfig:
    """Loss weights (paper eq. 3 and sec. 8; definitions: GaussianAvatars)."""

    l1: float = 10.0
    """Weight of the L1 image term."""
    perceptual: float = 10.0
    """Weight of the perceptual term."""
    perceptual_kind: str = "auto"
    """``auto`` (LPIPS when its VGG weights are installed, else ``structure``), ``lpips``, ``structure`` or ``none``."""
    position: float = 0.1
    """Weight of the penalty on Gaussians that leave their triangle."""
    position_threshold: float = 1.0
    """Free distance from the triangle's centre, in triangle units."""
    scaling: float = 10.0
    """Weight of the penalty on Gaussians that outgrow their triangle."""
    scaling_threshold: float = 0.6
    """Free scale in triangle units."""
    alpha: float = 1.0
    """Weight of the L1 between rendered alpha and the portrait's matte; clips without a matte have no such term."""


@dataclass
class OptimConfig:
    """Adam (paper sec. 8) with HeadStudio's learning rates."""

    position: float = 2e-4
    """Initial learning rate of local positions."""
    position_final: float = 2e-5
    """Learning rate of local positions at the last iteration (exponential decay)."""
    color: float = 1.25e-2
    """Learning rate of colours."""
    opacity: float = 1e-2
    """Learning rate of opacity logits."""
    scaling: float = 5e-3
    """Learning rate of log scales."""
    rotation: float = 1e-3
    """Learning rate of local rotations."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates."""
    eps: float = 1e-15
    """Adam's epsilon; gradients of single Gaussians are tiny."""


@dataclass
class DensityConfig:
    """Binding-aware density control: clone, split and prune, never emptying a triangle."""

    start: int = 300
    """First iteration at which density changes."""
    stop: int = 2100
    """Iteration from which density stays."""
    every: int = 300
    """Iterations between changes; 0 switches density control off."""
    gradient: float = 0.0004
    """Mean screen-space gradient (in half image sizes) above which a Gaussian is cloned or split."""
    split_scale: float = 0.5
    """Largest scale, in triangle units, above which a Gaussian is split instead of cloned."""
    min_opacity: float = 0.005
    """Opacity under which a Gaussian is pruned, unless it is its triangle's last or lies on a lid."""
    max_gaussians: int = 200_000
    """Upper bound on the number of Gaussians."""


@dataclass
class RenderConfig:
    """How pictures are made."""

    size: int = 512
    """Side of training renders and dataset clips in pixels."""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Background colour, the same for the carve, for training and for the clips that are refined."""
    backend: str = "auto"
    """``auto`` (gsplat on CUDA, the compiled kernel on CPU), ``gsplat``, ``cpu`` or ``torch`` (the slow reference)."""


@dataclass
class DiffusionConfig:
    """Refinement: inversion and landmark-guided denoising (paper sec. 4.1)."""

    backbone: str = "compact"
    """Registry name of the video diffusion backbone."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that backbone, e.g. ``diffusion.options.betas=scaled_linear``; docs/backbones.md lists them."""
    enabled: bool = True
    """Switch refinement off to train on the portrait and the first renders only."""
    steps: int = 25
    """Steps over the whole noise range; a strength below 1 uses its last part."""
    guidance: float = 3.5
    """Classifier-free guidance when denoising."""
    guidance_rescale: float = 0.0
    """Share (phi) by which a guided prediction is brought back to the spread of the conditional one, against the
    overexposure of strong guidance at zero terminal SNR (Lin et al. 2023, sec. 3.4: 0.7); 0 is off (paper)."""
    inversion_guidance: float = 1.0
    """Guidance during inversion; other values than 1 break the round trip."""
    start: str = "auto"
    """``inversion`` of the render by DDIM (paper), ``noise`` put on it, or ``auto``: noise for a backbone that is shown
    the render beside its latents (``compact``), inversion for all others."""
    strength: float = 1.0
    """How far up the noise range the render is taken (1 = all the way, as in the paper)."""
    keep_detail: bool = False
    """Add the change made by the denoiser to the render, instead of replacing the render by the decoded picture: keeps
    detail that the autoencoder loses or that the render has above the backbone's resolution (an addition)."""
    fixed_point_iterations: int = 0
    """Extra evaluations per inversion step that make it exact to first order (0: the usual explicit step)."""
    landmarks: str = "detect"
    """``detect`` on the render as in the paper, falling back to projected head landmarks; ``project`` always."""
    dtype: str = "auto"
    """``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16``."""


@dataclass
class DistillationConfig:
    """Score distillation of renders, the baselines that the dataset replaces (paper sec. 5.2)."""

    method: str = "none"
    """``none`` (train on the refined dataset, paper), or without any dataset: ``sds`` (DreamFusion), ``ism``
    (LucidDreamer) or ``nfsd`` (noise-free score distillation). With ``--serial`` only."""
    weight: float = 10.0
    """Weight of the term, which takes the place of ``loss.l1`` and ``loss.perceptual`` for clips."""
    guidance: float = 7.5
    """Classifier-free guidance: 7.5 in LucidDreamer, "nominal" in NFSD; DreamFusion's 100 is for text alone."""
    timesteps: tuple[float, float] = (0.02, 0.98)
    """Range of the drawn noise level, as shares of the training timesteps (DreamFusion)."""
    interval: float = 0.05
    """``ism``: distance between the two compared noise levels, as a share (LucidDreamer: mostly 50 of 1000
    timesteps, 25 to 80 in some configurations, coming down from 100 at the start)."""
    inversion_step: float = 0.2
    """``ism``: step of the inversion up to the first of them, as a share (LucidDreamer: 200 of 1000 timesteps)."""


@dataclass
class CurriculumConfig:
    """Which clips exist and when they are refined (paper sec. 4.2 and 8)."""

    frames: int = 16
    """Frames in a clip (n_f)."""
    spatial_clips: int = 20
    """Spatial samples (n_s): one ARKit action unit each, camera from front to side."""
    synthetic_clips: int = 10
    """Temporal samples with relaxed synthetic talk (n_syn)."""
    real_clips: int = 10
    """Temporal samples with exaggerated expressions (n_real)."""
    temporal_start: int = 5000
    """Iteration at which spatial gives way to temporal synthetic (k_s)."""
    real_start: int = 8000
    """Iteration at which temporal real begins."""
    unlock_interval: int = 300
    """Iterations per unlocked frame (d_s, eq. 2)."""
    fovy: tuple[float, float] = (40.0, 70.0)
    """Vertical field of view in degrees, sampled uniformly."""
    fill: tuple[float, float] = (0.62, 0.75)
    """Head height over frame height; the camera distance follows, so that the head is never cropped."""
    spatial_azimuth: tuple[float, float] = (30.0, 60.0)
    """Magnitude of the last camera azimuth of a spatial clip in degrees; the sign alternates."""
    spatial_elevation: tuple[float, float] = (-15.0, 15.0)
    """Last camera elevation of a spatial clip in degrees."""
    temporal_azimuth: tuple[float, float] = (-15.0, 15.0)
    """Fixed camera azimuth of a temporal clip in degrees."""
    temporal_elevation: tuple[float, float] = (-5.0, 10.0)
    """Fixed camera elevation of a temporal clip in degrees."""
    synthetic_talk: str = ""
    """Folder (or file) of TalkSHOW clips, .npy or .pkl, for the synthetic stage, with ``head=flame2020``; empty makes
    procedural talk."""
    real_talk: str = ""
    """The same for the real stage: SHOW's recordings, .pkl, as in the paper."""
    order: str = "progressive"
    """``progressive`` (paper: stages one after the other, frames unlocked one by one) or ``random``: all clips and
    frames are open from the start, and each turn's clip is drawn at random (the paper's ablation)."""
    updates: str = "iterative"
    """``iterative`` (paper: clips are refined again and again) or ``once``: each clip is refined at its first turn,
    with all frames open, and never again (the paper's ablation with a one-time dataset)."""
    wide_jaw: bool = True
    """Add wide-open jaws to the talk: recorded talk-show jaws stay under 10 degrees (an addition)."""


@dataclass
class LoopConfig:
    """The training loop of one avatar."""

    iterations: int = 10_000
    """Training iterations."""
    update_interval: int = 30
    """Iterations between two refined clips."""
    batch_frames: int = 8
    """Frames of one clip per iteration."""
    portrait_share: float = 0.25
    """Share of iterations on the portrait itself, kept as a clip that is never overwritten; 0 leaves it out (paper)."""
    checkpoint_every: int = 200
    """Iterations between checkpoints."""
    preview_every: int = 50
    """Iterations between preview pictures; 0 makes none."""


@dataclass
class DistributedConfig:
    """Concurrency between reconstruction and refinement."""

    window: int = 1
    """Refinement requests an avatar may have outstanding (W)."""
    slack: float = 0.0
    """Update intervals that training may run ahead of an outstanding request; 0 with window 1 is the serial loop."""
    max_age: int = 300
    """Iterations after which a refined clip is counted as expired instead of used."""
    refiners: int = 1
    """Refinement actors to start."""
    threads: int = 0
    """CPU threads of each actor; 0 shares the cores among them."""
    micro_batch: int = 1
    """Clips of several avatars that a refiner may serve at once, when more wait than there are refiners; 1 serves each
    alone, which is the only way to bit-identical avatars."""
    tail_window: int = 0
    """Window of the avatars in work at the end of a batch, when no portrait waits any more and refiners would idle,
    with slack as much more; ``window`` or less leaves it."""
    refine_gpus: float = -1.0
    """GPUs of a refiner; -1 gives it a whole one where there are enough, else an even share."""
    reconstruct_gpus: float = -1.0
    """GPUs of a trainer; -1 gives it a quarter where there are enough, else an even share."""
    wait: float = 60.0
    """Seconds to wait until the cluster has room for all actors; where machines are started for them, it takes minutes
    (and shares must be given: -1 looks at the GPUs that are there)."""
    weights: str = ""
    """Folder (path or fsspec URL) of weights, laid out as the asset folder, that each machine copies once; empty uses
    what is installed on it."""


@dataclass
class BatchConfig:
    """Many portraits in one job."""

    at_once: int = 0
    """Avatars in work at a time; 0 takes 1.5 for each refiner, which keeps refiners busy without any staleness."""
    look_ahead: int = 0
    """Portraits that are prepared before a trainer is free for them; 0 prepares as many as are in work at a time, so
    that a large fleet does not wait for its first portraits."""
    retry_failed: bool = False
    """Try portraits again that failed in an earlier job with this output."""
    keep_dataset: bool = True
    """Keep an avatar's refined clips and checkpoint when it is done: for ``export-dataset``, about a gigabyte each."""
    refresh: float = 10.0
    """Seconds between two versions of ``status.json`` and ``fleet.html``."""


@dataclass
class TrackingConfig:
    """Where numbers and pictures of a run go; the JSONL log is always written."""

    wandb: str = "offline"
    """``offline``, ``online`` or ``disabled``; failing to reach the server falls back to offline."""
    project: str = "zero1toa"
    """W&B project."""
    group: str = ""
    """W&B group, the job's name in a batch."""
    label: str = ""
    """Put before the names of the runs, so that those of several batches in one group are told apart."""
    media_every: int = 5
    """Preview pictures between two that W&B gets; 0 sends it only the contact sheet and the video at the end. An avatar
    has ``loop.iterations / loop.preview_every`` previews; the folder keeps the newest whatever is sent."""


@dataclass
class Config:
    """The whole configuration of an avatar, or of a batch of them."""

    preset: str = "preview"
    """Name of the preset this configuration started from."""
    seed: int = 0
    """The one seed: it gives one result on CPU."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    head: str = "canonical"
    """Head model: ``canonical`` (embedded), or an installed edition of FLAME: ``flame2020``, ``flame2023``,
    ``flame2023_no_jaw``, ``flame2023_open``."""
    portrait: PortraitConfig = field(default_factory=PortraitConfig)
    avatar: AvatarConfig = field(default_factory=AvatarConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def config_folder() -> Path:
    """The ``configs`` folder: inside the installed package, or beside it in a source checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def presets() -> list[str]:
    """Names of the presets that exist."""
    return sorted(p.stem for p in (config_folder() / "preset").glob("*.yaml"))


def load(overrides: Sequence[str] = (), file: Path | None = None) -> Config:
    """Merge preset, file and ``key=value`` overrides into a checked configuration.

    Args:
        overrides: dotted ``key=value`` strings; ``preset=NAME`` chooses the preset (default ``preview``), and
            ``backbone=NAME`` is short for ``diffusion.backbone=NAME``.
        file: an optional YAML file with the same keys; its ``preset`` key counts when no override names one.

    Raises:
        ConfigError: for an unknown key, preset or file, or a value of the wrong type.
    """
    values = _parse(overrides)
    from_file = _read(file) if file is not None else OmegaConf.create({})
    preset = str(values.get("preset", from_file.get("preset", "preview")))
    merged = OmegaConf.structured(Config)
    for layer in (*_preset_layers(preset), from_file, values):
        merged = _merge(merged, layer)
    merged.preset = preset
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:  # a ${reference} to nothing
        raise _wrong_value(error) from error
    assert isinstance(config, Config)
    return config


class OverrideChecker:
    """Checks single overrides against keys and types alone: of thousands, in the time of a few :func:`load`."""

    def __init__(self) -> None:
        self._any = OmegaConf.structured(Config)  # takes every value in turn; what it holds says nothing

    def check_key(self, key: str) -> None:
        """Raise ConfigError, with the nearest valid one, unless ``key`` names a value and not a section."""
        _check_key(key)
        _check_is_value(self._any, key)

    def check(self, override: str) -> None:
        """Check one ``key=value``.

        Raises:
            ConfigError: for an unknown key, or a value of the wrong type.
        """
        key, _, _ = _in_full(override).partition("=")
        values = _parse([override])
        self.check_key(key)
        for path in _paths(OmegaConf.to_container(values)):
            _check_key(path)
        try:
            OmegaConf.update(self._any, key, OmegaConf.select(values, key))
            OmegaConf.select(self._any, key)
        except OmegaConfBaseException as error:
            raise _wrong_value(error) from error


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, for bundles and logs."""
    return dataclasses.asdict(config)


def _preset_layers(name: str) -> list[DictConfig]:
    """The preset's file, after those of the presets that it builds on, named by its own ``preset`` key."""
    path = config_folder() / "preset" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"there is no preset '{name}'{nearest(name, presets())}; presets: {', '.join(presets())}")
    layer = _read(path)
    base = layer.get("preset")
    return [layer] if base is None else [*_preset_layers(str(base)), layer]


def _read(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}") from error
    except Exception as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _parse(overrides: Sequence[str]) -> DictConfig:
    for item in overrides:
        if not re.match(r"^[A-Za-z_][\w.]*=", item):
            raise ConfigError(f"'{item}' is not a configuration override; write key=value, e.g. loop.iterations=500")
    try:
        return OmegaConf.from_dotlist([_in_full(item) for item in overrides])
    except Exception as error:
        raise ConfigError(f"cannot read the overrides {list(overrides)}: {str(error).splitlines()[0]}") from error


def _in_full(override: str) -> str:
    """An override whose key stands in the section that it is of."""
    return f"diffusion.{override}" if override.startswith("backbone=") else override


def _merge(base: DictConfig, layer: DictConfig) -> DictConfig:
    for key in _paths(OmegaConf.to_container(layer)):
        _check_key(key)
    for name, value in layer.items():
        if not isinstance(value, DictConfig):
            _check_is_value(base, str(name))
    try:
        merged = OmegaConf.merge(base, layer)
    except OmegaConfBaseException as error:
        raise _wrong_value(error) from error
    assert isinstance(merged, DictConfig)
    return merged


def _check_key(key: str) -> None:
    if key not in _VALID and not key.startswith(_OPEN):
        raise ConfigError(f"unknown configuration key '{key}'{nearest(key, _VALID)}")


def _check_is_value(base: DictConfig, key: str) -> None:
    section = OmegaConf.select(base, key)
    if isinstance(section, DictConfig) and len(section):
        raise ConfigError(f"'{key}' is a section; set one of its values, e.g. {key}.{next(iter(section))!s}=…")


def _wrong_value(error: OmegaConfBaseException) -> ConfigError:
    return ConfigError(f"{getattr(error, 'full_key', None) or 'configuration'}: {str(error).splitlines()[0]}")


def _paths(tree: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.append(name)
        if isinstance(value, dict):
            found.extend(_paths(value, f"{name}."))
    return found


_OPEN = ("diffusion.options.",)  # checked by the backbone that they are given to
_VALID = frozenset(_paths(OmegaConf.to_container(OmegaConf.structured(Config))))
