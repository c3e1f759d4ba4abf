"""A folder anywhere: on this machine, on a share, or in a bucket, by its fsspec URL.

Everything that a run keeps goes through :class:`Storage`, whose files are there complete or not at all. On a file
system a file is written under a temporary name, flushed to the disk and renamed; object stores show a file only when
its upload is complete.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from zero1toa.errors import StorageError

_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}
"""Protocols whose uploads appear at once and whole, so that no rename is needed (and none would be atomic)."""

_PIECE = 2**24  # bytes that are copied at a time


class Storage:
    """A folder by path or fsspec URL (``/data/x``, ``s3://bucket/x``, ``gs://bucket/x``).

    Names are relative to the folder, with ``/`` between their parts. Storages are pickled by their URL, so that they
    pass between processes.

    Attributes:
        url: the folder; an absolute path for a local one.
        local: the folder as a path, or None where it is not in this machine's file system.

    Args:
        url: path or URL. The folder need not exist.
        folder: a folder in it that is meant instead; ``Storage(url) / folder`` is the same, and connects once.

    Raises:
        StorageError: for a protocol that is unknown, or whose package is not installed, or a server out of reach.
    """

    local: Path | None
    url: str

    def __init__(self, url: str | Path, folder: str = "") -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        text = str(url)
        try:
            self._fs, root = url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise StorageError(
                f"cannot open {text}: {error}; give a folder, or install the package it needs"
            ) from error
        except Exception as error:  # some protocols connect already
            raise StorageError(f"cannot reach {text}: {_reason(error)}") from error
        is_local = isinstance(self._fs, LocalFileSystem)
        self._base = os.path.abspath(root) if is_local else text.rstrip("/")
        self._base_root = root.rstrip("/")
        self._point_to(folder, is_local)
        protocols = [self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._whole = not _OBJECT_STORES.isdisjoint(protocols)

    def _point_to(self, folder: str, is_local: bool) -> None:
        self._folder = folder
        self._root = f"{self._base_root}/{folder}" if folder else self._base_root
        self.url = f"{self._base}/{folder}" if folder else self._base
        self.local = Path(self.url) if is_local else None

    def __reduce__(self) -> tuple[Callable[[str, str], Storage], tuple[str, str]]:
        """Pickle the URL; the connection is made again where it arrives, once a process."""
        return _reopened, (self._base, self._folder)

    def __eq__(self, other: object) -> bool:
        """Whether both name the same folder."""
        return isinstance(other, Storage) and self.url == other.url

    def __hash__(self) -> int:
        """Hash of the URL."""
        return hash(self.url)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Storage:
        """A folder in this one."""
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__)
        child._point_to(f"{self._folder}/{name}" if self._folder else name, self.local is not None)
        return child

    @property
    def name(self) -> str:
        """Last part of the folder's name."""
        return self._root.rpartition("/")[2]

    def locate(self, name: str) -> str:
        """Path or URL of a file or folder in this one."""
        return f"{self.url}/{name}"

    def write(self, name: str, content: bytes | str | Callable[[BinaryIO], Any]) -> None:
        """Write a file, replacing an older one; it appears complete or not at all, also after a power cut.

        Args:
            name: file name; its folders are made.
            content: bytes, text (UTF-8), or a function that writes into the open binary file it is given.

        Raises:
            StorageError: if the disk is full, or the folder cannot be reached or written.
        """
        try:
            if self.local is not None:
                _write_local(self.local / name, content)
                return
            buffer = BytesIO()
            _fill(buffer, content)
            self._write_remote(name, buffer.getvalue())
        except StorageError:
            raise
        except Exception as error:  # every protocol has errors of its own
            raise StorageError(f"cannot write {self.locate(name)}: {_reason(error)}") from error

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: if there is none.
            StorageError: if the folder cannot be reached or read.
        """
        with self._explained(name):
            data: bytes = self._fs.cat_file(self._path(name))
        return data

    def read_text(self, name: str) -> str:
        """Content of a UTF-8 text file; raises as :meth:`read`."""
        return self.read(name).decode()

    def open(self, name: str) -> BinaryIO:
        """A file as a stream to be read from its beginning, which the caller closes; raises as :meth:`read`.

        Reading from the stream raises the protocol's own errors.
        """
        with self._explained(name):
            stream: BinaryIO = self._fs.open(self._path(name), "rb")
        return stream

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name; raises StorageError as :meth:`read`."""
        with self._explained(name):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(name)))

    def files(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names, relative to ``folder``, of the complete files that lie directly in it.

        Args:
            folder: a folder in this one; one that does not exist has no files.
            suffix: ending of the names that are wanted.

        Raises:
            StorageError: if the folder cannot be reached.
        """
        return [name for name in self._list(folder, "file") if name.endswith(suffix) and not name.startswith(".")]

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders that lie directly in ``folder``; raises as :meth:`files`."""
        return self._list(folder, "directory")

    def delete(self, name: str) -> None:
        """Delete a file or a folder with everything in it; nothing happens if there is none.

        Raises:
            StorageError: if it cannot be deleted.
        """
        with contextlib.suppress(FileNotFoundError), self._explained(name):
            self._fs.rm(self._path(name), recursive=True)

    def upload(self, folder: Path, name: str, last: str) -> None:
        """Copy a local folder into this one, file by file.

        Args:
            folder: local folder.
            name: what it is called here.
            last: file of it that is written after all others; its presence says that the folder is complete.

        Raises:
            StorageError: as :meth:`write`.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path.relative_to(folder).as_posix() == last):
            self.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def download(self, name: str, folder: Path) -> None:
        """Copy a folder of this one to a local folder.

        Raises:
            FileNotFoundError: if there is none.
            StorageError: if it cannot be read.
        """
        root = self._path(name)
        with self._explained(name):
            paths = self._fs.find(root)
            if not paths:
                raise FileNotFoundError(self.locate(name))
            for path in paths:
                target = folder / str(path).removeprefix(root).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._fs.cat_file(path))

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file of this folder to a path on this machine, piece by piece, so that it need not fit into memory.

        Args:
            name: file name.
            path: where it is written; it appears complete or not at all.

        Raises:
            FileNotFoundError: if there is none.
            StorageError: if it cannot be read, or this machine's disk is full.
        """

        def copy(file: BinaryIO) -> None:
            with self._explained(name):
                source = self._fs.open(self._path(name), "rb")
            with source:
                while True:
                    with self._explained(name):
                        piece = source.read(_PIECE)
                    if not piece:
                        return
                    file.write(piece)

        try:
            _write_local(path, copy)
        except (FileNotFoundError, StorageError):
            raise
        except OSError as error:
            raise StorageError(f"cannot write {path}: {_reason(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _list(self, folder: str, kind: str) -> list[str]:
        path = self._path(folder)
        try:
            with self._explained(folder):
                self._fs.invalidate_cache()  # others write here too
                entries = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind)
        return sorted(names)

    def _write_remote(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if self._whole:
            self._fs.pipe_file(path, data)
            return
        parent, _, base = path.rpartition("/")
        temporary = f"{parent}/.{base}.{os.getpid()}.tmp"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StorageError):
            raise
        except NotADirectoryError as error:  # a file lies where a folder should: there is nothing under it
            raise FileNotFoundError(self.locate(name)) from error
        except Exception as error:
            raise StorageError(f"cannot reach {self.locate(name).rstrip('/')}: {_reason(error)}") from error


def _reopened(base: str, folder: str) -> Storage:
    storage = _connected(base)
    return storage / folder if folder else storage


@functools.lru_cache
def _connected(base: str) -> Storage:
    return Storage(base)


def _fill(file: BinaryIO, content: bytes | str | Callable[[BinaryIO], Any]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode() if isinstance(content, str) else content)


def _write_local(path: Path, content: bytes | str | Callable[[BinaryIO], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # With the rights of any new file: others of the same share read what is written here.
        with temporary.open("xb") as file:
            _fill(file, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _reason(error: Exception) -> str:
    # Writers with a format of their own fail a second time as they close a file that could not be written: torch.save
    # on a full disk says "unexpected pos". What the system said is further down the chain. A file that was looked for
    # before (in a cache, say) is not the reason.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and (cause is error or cause.errno != errno.ENOENT):
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
