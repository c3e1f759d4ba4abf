"""The clips of one avatar as they are exported: pictures from its dataset, cameras and poses from its configuration.

The dataset keeps pictures only, because a clip's specification follows from configuration, head model and portrait. It
is made anew here with the functions that the training uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from zero1toa.avatar.bundle import fingerprint, read_bundle
from zero1toa.avatar.creation import fit_params
from zero1toa.curriculum.clips import unlocked_spec
from zero1toa.curriculum.schedule import build_clips
from zero1toa.dataset.runs import is_finished
from zero1toa.dataset.samples import ExportedClip, ExportedPortrait
from zero1toa.errors import DatasetError, OutputError, StorageError, StoreError
from zero1toa.head.protocol import HeadModel
from zero1toa.portrait.keeping import FILE, kept_portrait
from zero1toa.storage import Storage
from zero1toa.symgen.folder import RunFolder, portrait_digest, read_identity
from zero1toa.symgen.identity import config_of
from zero1toa.symgen.landmarks import project_landmarks
from zero1toa.symgen.posing import PosedClips
from zero1toa.symgen.store import Record, SymGENStore
from zero1toa.types import LandmarkTrack


class AvatarClips:
    """What is exported of one avatar.

    Attributes:
        portrait: the avatar's portrait.

    Args:
        root: output folder of the avatar's generation, which nobody writes to.
        load_head: gives a head model by its name in the configuration.

    Raises:
        DatasetError: if its portrait, its clips or its identity is missing, or they do not belong together.
        BundleError: if the finished avatar is damaged, or of another build of the head model.
        HeadModelError: if its head model is not installed.
        StorageError: if the folder cannot be reached.
    """

    portrait: ExportedPortrait

    def __init__(self, root: Storage, load_head: Callable[[str], HeadModel]) -> None:
        identity = read_identity(root)
        folder = RunFolder(root, identity.avatar)
        config = config_of(identity.config)
        head = load_head(config.head).to("cpu")
        portrait = kept_portrait(root)
        if portrait is None:
            raise DatasetError(f"{root.locate(FILE)} is missing or damaged, so the cameras of its clips are not known")
        if portrait_digest(portrait) != identity.portrait:
            raise DatasetError(f"{root.locate(FILE)} is not the portrait that the clips in {root} were made for")
        finished = is_finished(root)
        # The finished avatar says what its head was like; computed anew, the last bits may depend on the machine.
        if finished:
            params = read_bundle(folder.bundle, head).params
        else:
            params, *_ = fit_params(head, portrait, config.avatar)
        self.portrait = ExportedPortrait(
            avatar=identity.avatar,
            portrait=dataclasses.replace(portrait, params=params),
            head=head.name,
            fingerprint=fingerprint(head),
            finished=finished,
            config=identity.config,
        )
        try:
            self._store = SymGENStore(folder.dataset, identity.avatar)
        except StorageError:
            raise
        except (StoreError, OutputError) as error:
            raise DatasetError(f"the clips of {root} cannot be read: {error}") from error
        self._head = head
        specs = build_clips(config.curriculum, head, params, config.render.size, config.seed)
        render = config.render
        self._posed = PosedClips(head, params, specs.values(), render.background, render.backend)

    def clips(self, *, all_versions: bool = False, renders: bool = False) -> Iterator[ExportedClip]:
        """The avatar's clips in the order in which they were committed.

        Args:
            all_versions: every version whose pictures are still there, not only the newest of each clip.
            renders: with the render that each was refined from.

        Raises:
            DatasetError: if the pictures of a clip are damaged or do not fit its cameras.
        """
        records = self._store.records()
        there = {key: self._store.kept(key) for key in {record.key for record in records}}
        for record in records:
            newest = record.version == self._store.version(record.key)
            if newest or (all_versions and record.version in there[record.key]):
                yield self._clip(record, newest, renders)

    def _clip(self, record: Record, newest: bool, renders: bool) -> ExportedClip:
        where = f"{self._store.root}: {record.key}, version {record.version}"
        whole = self._posed.clips.get(record.key)
        if whole is None:
            raise DatasetError(f"{where} is no clip of the configuration that is kept with it")
        try:
            frames = self._store.load(record.key, record.version)
            render = self._store.load_render(record.key, record.version) if renders else None
        except StoreError as error:
            raise DatasetError(f"{where} cannot be read: {error}") from error
        if frames.shape != (len(whole), whole.size, whole.size, 3):
            raise DatasetError(
                f"{where} has pictures {list(frames.shape)}; {len(whole)} of {whole.size}² were expected"
            )
        spec = unlocked_spec(whole, record.unlocked)
        return ExportedClip(
            avatar=self.portrait.avatar,
            spec=spec,
            frames=frames,
            render=render,
            landmarks=self._landmarks(record),
            version=record.version,
            newest=newest,
            unlocked=record.unlocked,
            render_step=record.render_step,
            epoch=record.epoch,
            sequence=record.sequence,
            request_id=record.request_id,
            head=self.portrait.head,
            fingerprint=self.portrait.fingerprint,
        )

    def _landmarks(self, record: Record) -> LandmarkTrack:
        """Landmarks of the open frames, each projected once; the locked frames repeat the last of them."""
        key, opened = record.key, record.unlocked
        vertices = self._posed.vertices(key)
        viewmats, Ks = self._posed.cameras(key, range(opened))
        posed = vertices if len(vertices) == 1 else vertices[:opened]
        track = project_landmarks(self._head, posed, viewmats, Ks, self._posed.clips[key].size)
        fill = np.minimum(np.arange(len(self._posed.clips[key])), opened - 1)
        return LandmarkTrack(track.points[fill], track.valid[fill], track.projected[fill])
