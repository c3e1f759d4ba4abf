"""Which avatars a folder holds whose clips can be exported: one of ``zero1toa generate``, or many of a batch."""

from __future__ import annotations

from zero1toa.avatar import bundle
from zero1toa.errors import DatasetError
from zero1toa.storage import Storage

_BATCH = "avatars"
_STORE = "dataset/store.json"


def find_runs(source: Storage, *, unfinished: bool = False) -> list[Storage]:
    """Output folders of the avatars whose clips can be exported, sorted by name.

    Args:
        source: the output folder of one generation, finished or not; or that of a batch.
        unfinished: of a batch, take avatars too that are not finished.

    Raises:
        DatasetError: if there are none; the message says why.
        StorageError: if the folder cannot be reached.
    """
    if source.exists(_STORE):
        return [source]
    names = source.folders(_BATCH)
    if not names:
        what = "no longer has its clips" if is_finished(source) else "holds no avatar"
        raise DatasetError(
            f"{source} {what}: there is neither dataset/ nor avatars/ in it; give an output folder of "
            "`zero1toa generate` or `zero1toa batch`"
        )
    roots = [source / _BATCH / name for name in names]
    made = roots if unfinished else [root for root in roots if is_finished(root)]
    if not made:
        raise DatasetError(
            f"none of the {len(names)} avatars in {source} is finished; --unfinished exports them as they are"
        )
    kept = [root for root in made if root.exists(_STORE)]
    if not kept:
        raise DatasetError(
            f"none of the {len(made)} avatars in {source} has its clips any more; a batch keeps them with "
            "batch.keep_dataset=true"
        )
    return kept


def is_finished(root: Storage) -> bool:
    """Whether a generation's output folder holds a finished avatar."""
    if root.local is not None:
        return bundle.exists(root.local / "avatar")
    return root.exists("avatar/avatar.json")
