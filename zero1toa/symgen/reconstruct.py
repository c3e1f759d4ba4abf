"""Reconstruction of one avatar from its dataset, as a class with explicit state (paper sec. 4.1).

What is trained on: clips that were refined at least once, and the portrait. The paper fills its dataset by the
diffusion model before training; here a clip joins when its first refinement arrives, so that refinement and training
overlap from the beginning and nobody trains on pictures of an untrained avatar. Until the first clip arrives, and for
``loop.portrait_share`` of the iterations, the portrait is the target; it is never overwritten.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zero1toa.acceleration import send
from zero1toa.avatar.bundle import Bundle, fingerprint
from zero1toa.avatar.creation import create_avatar
from zero1toa.avatar.density import ScreenGradients, change_density, is_due
from zero1toa.avatar.gaussians import PARAMETERS, GaussianAvatar
from zero1toa.avatar.losses import LossTerms, ReconstructionLoss, drawn
from zero1toa.avatar.optimizer import AvatarOptimizer
from zero1toa.avatar.picture_sampling import is_colorful, smooth_step
from zero1toa.config import Config, to_dict
from zero1toa.curriculum.cameras import Lens
from zero1toa.curriculum.clips import clip_spec
from zero1toa.curriculum.schedule import Schedule, build_clips
from zero1toa.curriculum.turns import Turns
from zero1toa.errors import ZeroOneError
from zero1toa.head.arkit import coefficients
from zero1toa.head.protocol import HeadModel
from zero1toa.render.cameras import resize_intrinsics
from zero1toa.render.rasterize import screen_gradient
from zero1toa.storage import Storage
from zero1toa.symgen import checkpoint
from zero1toa.symgen.distillation.distillation import ScoreDistillation
from zero1toa.symgen.landmarks import Detector, LandmarkCounts, project_landmarks, track_landmarks
from zero1toa.symgen.loss_readout import LossReadout
from zero1toa.symgen.portrait_target import PORTRAIT, PortraitTarget
from zero1toa.symgen.portrait_trust import calm
from zero1toa.symgen.posing import PosedClips
from zero1toa.symgen.result import LossCurve
from zero1toa.symgen.target_features import TargetFeatures
from zero1toa.types import ClipSpec, LandmarkTrack, Portrait, Receipt, RefineRequest, SampleKey, Stage

Fetch = Callable[[SampleKey, int], tuple[NDArray[np.uint8], int]]
"""Pictures ``[T, H, W, 3]`` uint8 of a committed version, and how many of its frames were open."""


class Reconstruction:
    """One avatar's trainer. One seed gives one result on CPU, with and without interruptions.

    Attributes:
        config: the run's configuration.
        avatar_id: avatar id.
        gaussians: the avatar.
        head: the head model, on the device.
        params: the portrait's head with the avatar's offset, on the device.
        outstanding: unanswered requests by id, the oldest first.
        step_count: training iterations done.
        submitted: requests made, skipped turns included.
        refined: clips taken in.
        superseded: refined clips that came second.
        expired: refined clips that came too late.
        refinements: clips taken in, by clip.
        landmark_counts: how the requests' frames got their landmarks.
        curve: loss curve.
        timings: seconds by phase.
        notes: fallbacks and incidents, one line each.
        run_id: W&B run that the figures go to, kept in checkpoints; empty without one.
    """

    def __init__(
        self,
        portrait: Portrait,
        config: Config,
        head: HeadModel,
        *,
        avatar_id: str,
        fetch: Fetch,
        detector: Detector | None = None,
        distillation: ScoreDistillation | None = None,
        device: torch.device | str = "cpu",
        notes: tuple[str, ...] = (),
    ) -> None:
        """Make the avatar of iteration 0.

        Args:
            portrait: carved and fitted portrait.
            config: the run's configuration.
            head: head model of ``portrait.params``.
            avatar_id: avatar id.
            fetch: reads committed pictures from the dataset.
            detector: finds landmarks in renders; None projects the head's.
            distillation: the loss of clips where ``distillation.method`` says that there is no dataset.
            device: where to train.
            notes: fallbacks that were used so far.
        """
        self.config = config
        self.avatar_id = avatar_id
        self._device = torch.device(device)
        self._fetch = fetch
        self._detector = detector
        self._distillation = distillation
        self._started = time.monotonic()
        self._earlier = 0.0
        self._portrait = portrait
        self.head = head.to(self._device)
        self.schedule = Schedule(config.curriculum)
        # Begun on the CPU, so that a photo begins with the same avatar and the same clips on every device.
        self._cpu_head = head.to("cpu")
        start = create_avatar(self._cpu_head, portrait, config.avatar)
        specs = build_clips(config.curriculum, self._cpu_head, start.params, config.render.size, config.seed)
        self.gaussians = start.avatar.to(self._device)
        self.params = start.params.to(self._device)
        seen = start.seen.to(self._device)
        self._turns = Turns(config, specs)
        specs[PORTRAIT] = self._portrait_spec()
        background = config.render.background
        self._posed = PosedClips(self.head, self.params, specs.values(), background, config.render.backend)
        self._target = PortraitTarget(self._posed, portrait.image, config.render.size)
        self._loss = ReconstructionLoss(config.loss, self._device)
        self._optimizer = AvatarOptimizer(self.gaussians, config.optim, config.loop.iterations)
        self._gradients = ScreenGradients(len(self.gaussians), self._device)
        lids = self.head.regions["lids_left"] | self.head.regions["lids_right"]
        self._protected = lids.to(self._device)
        kept = start.kept.to(seen)
        # Of each triangle [F], whether any of its Gaussians is kept, and how clearly the portrait shows it.
        means = self.gaussians.triangle_means(torch.stack([kept, seen], 1))
        self._kept, self._seen = means[:, 0] > 0, means[:, 1]
        self._portrait_tells = config.avatar.project_portrait and config.loop.portrait_share > 0
        image = torch.from_numpy(portrait.image).float() / 255
        self._grey = config.avatar.project_portrait and not bool(is_colorful(image[None]))
        self._facing: dict[SampleKey, Tensor] = {}  # how squarely a clip's frames show each triangle [T, F]
        if config.avatar.facing_only:
            self._facing[PORTRAIT] = (self._seen * calm(self.head, self.params))[None]
            self._target.ask_for_what_is_clear(self.gaussians, self.params, seen)
        if self._portrait_tells:
            self._solve_colors()
        self._rng = np.random.default_rng([config.seed, 0x7EA1])
        self._density_generator = torch.Generator().manual_seed(config.seed)
        self._readout = LossReadout(self._device)
        self._losses: dict[str, float] = {}  # the newest that were read

        self._clips: dict[SampleKey, Tensor] = {}  # uint8 [T, H, W, 3] on the device
        self._features = TargetFeatures(self._loss.perceptual.known, config.loop.batch_frames)
        self._open: dict[SampleKey, int] = {}  # open frames of the version that is trained on
        self.versions: dict[SampleKey, int] = {}
        self._requested: dict[SampleKey, int] = {}
        self.outstanding: dict[str, RefineRequest] = {}
        self.step_count = self.submitted = 0
        self.refined = self.superseded = self.expired = 0
        self.refinements: dict[SampleKey, int] = {}
        self.landmark_counts = LandmarkCounts()
        self.curve = LossCurve(self.iterations)
        self.timings: dict[str, float] = {}
        self.run_id = ""
        fallback = self._loss.perceptual.fallback
        self.notes = [*portrait.notes, *notes, *start.notes, *([fallback] if fallback else [])]

    @property
    def iterations(self) -> int:
        """Training iterations in total."""
        return self.config.loop.iterations

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        return self.step_count >= self.iterations

    @property
    def requested(self) -> int:
        """Refinement requests made."""
        return self.refined + self.superseded + self.expired + len(self.outstanding)

    @property
    def epoch(self) -> int:
        """Curriculum epoch at this iteration."""
        return self.schedule.epoch(self.step_count)

    @property
    def stage(self) -> Stage:
        """Newest curriculum stage at this iteration."""
        return self.schedule.stage(self.step_count)

    @property
    def seconds(self) -> float:
        """Time spent on this avatar, earlier sessions included."""
        return self._earlier + time.monotonic() - self._started

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the block to ``timings[phase]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[phase] = self.timings.get(phase, 0.0) + time.perf_counter() - start

    def step(self) -> dict[str, float]:
        """One training iteration: pick a clip, render some of its frames, compare, improve (paper eq. 1).

        Returns:
            The unweighted loss terms and the weighted ``total``; on a GPU, which is not waited for, those of the
            iteration before, and nothing at first.

        Raises:
            ZeroOneError: if a loss is not finite.
        """
        with self.timed("train"):
            key, frames = self._pick()
            shown = frames if key == PORTRAIT else [min(frame, self._open[key] - 1) for frame in frames]
            renders, alphas, meta = self._posed.render(self.gaussians, key, shown)
            visible = drawn(meta["radii"])
            if key != PORTRAIT and self._distillation is not None:
                terms = self._distil(self._distillation, key, shown, renders, visible)
            elif key != PORTRAIT:
                clip, places = self._clips[key], send(frames, self._device)
                known = self._features.of(key, clip, places)
                targets = clip.index_select(0, places).float() / 255
                terms = self._loss(renders, targets, self.gaussians, visible, known=known)
            else:
                targets = self._target.of(renders, alphas)
                terms = self._loss(renders, targets, self.gaussians, visible, alphas, self._target.matte)
            self._optimizer.zero_grad()
            terms.total.backward()
            if key == PORTRAIT and self._portrait_tells:
                self.gaussians.sh0.grad = None  # colours that the portrait tells are solved for
            self._gradients.add(screen_gradient(meta), meta["radii"])
            shared = self.config.avatar.facing_only or self.config.avatar.keep_margins
            share = self._share(key, shown)[self.gaussians.binding] if shared else None
            self._optimizer.step(self.step_count, share)
            self.step_count += 1
            if is_due(self.step_count, self.config.density):
                change_density(
                    self.gaussians,
                    self._optimizer,
                    self._gradients,
                    self._protected,
                    self.config.density,
                    self._density_generator,
                )
                self._gradients = ScreenGradients(len(self.gaussians), self._device)
            if self.done and self._portrait_tells:
                self._solve_colors()  # once more, where positions and opacities have come to
            self._readout.put(self.step_count, {"total": terms.total.detach(), **terms.terms})
            self._read_losses(everything=self.done)
            return self._losses

    def _read_losses(self, everything: bool = False) -> None:
        """Bring losses that have arrived, or ``everything``, to the curve."""
        for iteration, losses in self._readout.read(everything):
            if not math.isfinite(losses["total"]):
                raise ZeroOneError(f"the loss of iteration {iteration} is {losses['total']}: {losses}")
            self.curve.add(iteration, losses)
            self._losses = losses

    def _distil(
        self, distillation: ScoreDistillation, key: SampleKey, frames: list[int], renders: Tensor, visible: Tensor
    ) -> LossTerms:
        """Loss terms of frames without targets: the diffusion model itself says where to go."""
        pictures = (renders.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        track = self._landmarks(key, pictures, frames)
        self.landmark_counts.add(track)
        term = distillation(renders, track, self._rng)
        return self._loss.regularised("distillation", self.config.distillation.weight, term, self.gaussians, visible)

    def _solve_colors(self) -> None:
        """Make what the portrait tells look like it."""
        share = self._share(PORTRAIT, [0])
        # Hair and necks that are seen aside may follow: an error of the fit puts there what is hair or neck as well.
        seen = smooth_step((self._seen - _ASIDE[0]) / (_ASIDE[1] - _ASIDE[0]))
        hair_or_neck = self.head.regions["scalp"] | self.head.regions["neck"]
        share = torch.where(hair_or_neck, torch.maximum(share, seen), share)
        self._target.solve_colors(self.gaussians, share[self.gaussians.binding])

    def _share(self, key: SampleKey, frames: list[int]) -> Tensor:
        """How much of a step these frames may make the Gaussians of each triangle take ``[F]``.

        Nothing on margins. What is seen from the side answers for every error of fit and matte, so it moves less; and
        what the portrait shows clearly is its own to tell, where it is trained on.
        """
        share = torch.ones_like(self._seen)
        if self.config.avatar.facing_only:
            if key not in self._facing:
                self._facing[key] = self._posed.facing(key)
            squarely = self._facing[key].index_select(0, send(frames, self._device)).amax(0)
            share = smooth_step((squarely - _SLANTED[0]) / (_SLANTED[1] - _SLANTED[0]))
            if key != PORTRAIT and self._portrait_tells:
                share = share * (1 - self._seen)
        if self.config.avatar.keep_margins:
            share = torch.where(self._kept, 0.0, share)
        return share

    def request(self) -> RefineRequest | None:
        """Render the clip that is refined next, with its landmarks.

        Returns:
            The request, which is outstanding from now on; or None if this turn has nothing to refine: no clips, a
            dataset that is made once and has every open clip, or score distillation, which has no dataset.
        """
        number, step = self.submitted, self.step_count
        turn = self._turns.next(number, step, self._requested)
        self.submitted = number + 1
        if turn is None:
            return None
        key, unlocked = turn.key, turn.unlocked
        self._requested[key] = number
        length = len(self._posed.clips[key])
        shown = list(range(unlocked))
        with self.timed("render"):
            batch = self.config.loop.batch_frames
            frames = self._posed.pictures(self.gaussians, key, shown, batch).cpu().numpy()
        with self.timed("landmarks"):
            track = self._landmarks(key, frames, shown)
        # The locked frames show the pose of the last open one (paper eq. 2), so one picture serves for all of them.
        fill = np.minimum(np.arange(length), unlocked - 1)
        landmarks = LandmarkTrack(track.points[fill], track.valid[fill], track.projected[fill])
        self.landmark_counts.add(landmarks)
        base = self.versions.get(key, 0)
        request = RefineRequest(
            avatar=self.avatar_id,
            key=key,
            base_version=base,
            render_step=step,
            epoch=self.epoch,
            frames=np.ascontiguousarray(frames[fill]),
            landmarks=landmarks,
            unlocked=unlocked,
            backbone=self.config.diffusion.backbone if self.config.diffusion.enabled else "none",
            seed=_seed(self.config.seed, key, base),
        )
        self.outstanding[request.request_id] = request
        return request

    def accept(self, receipt: Receipt) -> None:
        """Take in the answer to a request.

        A clip that the dataset holds in a newer version than the trainer (committed by this request, or by another one
        after a restart) is fetched and trained on from now on; an expired one leaves the dataset as it was.
        """
        if self.outstanding.pop(receipt.request_id, None) is None:
            return
        for phase, seconds in receipt.seconds.items():
            self.timings[phase] = self.timings.get(phase, 0.0) + seconds
        if receipt.status == "expired":
            self.expired += 1
        elif receipt.status == "superseded":
            self.superseded += 1
        else:
            self.refined += 1
            self.refinements[receipt.key] = self.refinements.get(receipt.key, 0) + 1
        if receipt.version > self.versions.get(receipt.key, 0):
            self._install(receipt.key, receipt.version)

    def checkpoint(self, folder: Storage, name: str) -> None:
        """Write the whole state atomically, so that :meth:`restore` continues bit for bit (on CPU).

        Raises:
            OutputError: if it cannot be written.
            ZeroOneError: if a loss is not finite.
        """
        with self.timed("checkpoint"):
            self._read_losses(everything=True)
            checkpoint.save(folder, name, self._state())

    def restore(self, folder: Storage, name: str) -> bool:
        """Continue from a checkpoint; False if there is none.

        Raises:
            StoreError: if the checkpoint is damaged, or the dataset lacks what it was trained on.
        """
        state = checkpoint.load(folder, name)
        if state is None:
            return False
        self.gaussians = GaussianAvatar(
            {name: state["gaussians"][name] for name in PARAMETERS},
            state["gaussians"]["binding"],
            self._cpu_head.faces,
        ).to(self._device)
        self._optimizer = AvatarOptimizer(self.gaussians, self.config.optim, self.iterations)
        self._optimizer.load_state_dict(state["optimizer"])
        self._gradients = ScreenGradients(len(self.gaussians), self._device)
        self._gradients.total = state["gradients"]["total"].to(self._device)
        self._gradients.seen = state["gradients"]["seen"].to(self._device)
        self._rng.bit_generator.state = json.loads(state["rng"])
        self._density_generator.set_state(state["density_generator"])
        for name in _COUNTERS:
            setattr(self, name, int(state["counters"][name]))
        self._requested = _keys(state["requested"])
        self.refinements = _keys(state["refinements"])
        self.outstanding = {}
        for packed in state["outstanding"]:
            request = checkpoint.unpack_request(packed)
            self.outstanding[request.request_id] = request
        for key, version in _keys(state["versions"]).items():
            self._install(key, version)
        self.landmark_counts = LandmarkCounts(**state["landmarks"])
        self.curve.restore(state["curve"])
        self.timings = dict(state["timings"])
        self.notes = list(dict.fromkeys([*state["notes"], *self.notes]))
        self._earlier = float(state["seconds"])
        self._started = time.monotonic()
        return True

    @torch.no_grad()
    def preview(self) -> NDArray[np.uint8]:
        """One row of pictures ``[S, 6 S, 3]`` uint8: the portrait, its render, both sides, open mouth, closed eyes."""
        tiles = [(self._target.picture[0].clamp(0, 1) * 255).round().to(torch.uint8)]
        tiles.append(self._posed.pictures(self.gaussians, PORTRAIT, [0], 1)[0])
        (key,) = self._sheet.clips
        tiles += list(self._sheet.pictures(self.gaussians, key, range(4), 4))
        return torch.cat(tiles, 1).cpu().numpy()

    def metrics(self) -> dict[str, float]:
        """Figures of the avatar: PSNR of the portrait's view in decibel, and the number of Gaussians."""
        with torch.no_grad():
            render, _, _ = self._posed.render(self.gaussians, PORTRAIT, [0])
            error = float((render.clamp(0, 1) - self._target.picture).square().mean())
        return {"portrait_psnr": -10 * math.log10(max(error, 1e-10)), "gaussians": float(len(self.gaussians))}

    def bundle(self) -> Bundle:
        """The avatar with everything needed to pose and render it."""
        return Bundle(
            avatar=self.gaussians,
            params=self.params,
            head=self.head.name,
            fingerprint=fingerprint(self.head),
            viewmat=self._portrait.viewmat,
            K=self._portrait.K,
            size=self._portrait.size,
            config=to_dict(self.config),
            metrics=self.metrics(),
            notes=tuple(self.notes),
            portrait=self._portrait.image,
        )

    def _pick(self) -> tuple[SampleKey, list[int]]:
        """A clip and frames of it, drawn from the trainer's own generator."""
        if self._distillation is not None:
            return self._pick_without_dataset()
        keys = sorted(self._clips)
        if not keys or self._rng.random() < self.config.loop.portrait_share:
            return PORTRAIT, [0]
        key = keys[int(self._rng.integers(len(keys)))]
        length = len(self._clips[key])
        count = min(self.config.loop.batch_frames, length)
        return key, sorted(self._rng.choice(length, count, replace=False).tolist())

    def _pick_without_dataset(self) -> tuple[SampleKey, list[int]]:
        """An open clip of the curriculum and consecutive frames of it, as a video model wants them."""
        clips = self._turns.open(self.step_count)
        if not clips or self._rng.random() < self.config.loop.portrait_share:
            return PORTRAIT, [0]
        key, unlocked = clips[int(self._rng.integers(len(clips)))]
        self._open[key] = unlocked
        length = len(self._posed.clips[key])
        count = min(self.config.loop.batch_frames, length)
        start = int(self._rng.integers(length - count + 1))
        return key, list(range(start, start + count))

    def _install(self, key: SampleKey, version: int) -> None:
        frames, unlocked = self._fetch(key, version)
        if self._grey:  # a diffusion model tints what it refines, and the portrait cannot say which tint is wrong
            frames = frames.mean(-1, keepdims=True).round().astype(np.uint8).repeat(3, -1)
        self._clips[key] = torch.from_numpy(np.array(frames)).to(self._device)
        self._features.forget(key)
        self._open[key] = unlocked
        self.versions[key] = version

    def _landmarks(self, key: SampleKey, frames: NDArray[np.uint8], shown: list[int]) -> LandmarkTrack:
        vertices = self._posed.vertices(key)
        viewmats, Ks = self._posed.cameras(key, shown)
        posed = vertices if len(vertices) == 1 else vertices[shown]
        own = project_landmarks(self.head, posed, viewmats, Ks, self._posed.clips[key].size)
        return track_landmarks(frames, own, self._detector)

    def _portrait_spec(self) -> ClipSpec:
        size = self.config.render.size
        K = resize_intrinsics(torch.from_numpy(self._portrait.K), self._portrait.size, size)
        poses = {
            name: getattr(self.params, name).detach().cpu().float().numpy()[None]
            for name in ("expression", "jaw", "neck", "eyes", "lids")
        }
        view = np.asarray(self._portrait.viewmat, np.float32)[None]
        azimuth = np.array([-self._portrait.yaw], np.float32)
        return ClipSpec(key=PORTRAIT, viewmats=view, Ks=K.numpy()[None], size=size, azimuths=azimuth, **poses)

    @functools.cached_property
    def _sheet(self) -> PosedClips:
        """What a preview shows beside the portrait."""
        mouth = coefficients({"jawOpen": 0.8})
        eyes = coefficients({"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "mouthSmileLeft": 0.6, "mouthSmileRight": 0.6})
        rest = coefficients({})
        distance = self.head.height / (2 * 0.7 * math.tan(math.radians(25.0) / 2))
        spec = clip_spec(
            SampleKey("portrait", "preview"),
            head=self._cpu_head,
            identity=self.params.to("cpu"),
            coefficients=torch.stack([rest, rest, mouth, eyes]).numpy(),
            azimuths=np.array([40, -40, 0, 0], np.float32),
            elevations=np.zeros(4, np.float32),
            lens=Lens(25.0, distance),
            size=self.config.render.size,
        )
        return PosedClips(self.head, self.params, [spec], self.config.render.background, self._posed.backend)

    def _state(self) -> dict[str, Any]:
        return {
            "gaussians": {name: tensor.cpu() for name, tensor in self.gaussians.tensors().items()},
            "optimizer": self._optimizer.state_dict(),
            "gradients": {"total": self._gradients.total.cpu(), "seen": self._gradients.seen.cpu()},
            "rng": json.dumps(self._rng.bit_generator.state),
            "density_generator": self._density_generator.get_state(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "versions": _plain(self.versions),
            "requested": _plain(self._requested),
            "refinements": _plain(self.refinements),
            "outstanding": [checkpoint.pack_request(request) for request in self.outstanding.values()],
            "landmarks": dict(vars(self.landmark_counts)),
            "curve": self.curve.state(),
            "timings": dict(self.timings),
            "notes": list(self.notes),
            "run_id": self.run_id,
            "seconds": self.seconds,
        }


_SLANTED = (0.1, 0.8)  # how squarely a frame must show a triangle to train its Gaussians a little, and in full
_ASIDE = (0.05, 0.3)  # how clearly the portrait must show hair and neck for their colours to follow, and in full
_COUNTERS = ("step_count", "submitted", "refined", "superseded", "expired")


def _plain(values: dict[SampleKey, int]) -> list[tuple[str, str, int]]:
    return [(key.stage, key.name, value) for key, value in values.items()]


def _keys(rows: list[tuple[Stage, str, int]]) -> dict[SampleKey, int]:
    return {SampleKey(stage, name): value for stage, name, value in rows}


def _seed(seed: int, key: SampleKey, base: int) -> int:
    """Seed of a request: the same for the same clip and version, whoever asks and whoever serves."""
    digest = hashlib.sha256(json.dumps([seed, str(key), base]).encode()).digest()
    return int.from_bytes(digest[:4], "big")
