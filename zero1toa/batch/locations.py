"""Addresses of files: paths, fsspec URLs and chained ones (``zip://a.jpg::s3://bucket/photos.zip``), taken apart.

A file is named by one text that means the same on every machine of a cluster, so that a photo can be opened wherever
its turn comes.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import Any

from zero1toa.errors import ManifestError, nearest


def connect(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and its path there.

    Raises:
        ManifestError: for a protocol that is unknown, or whose package is not installed.
    """
    from fsspec import available_protocols
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(address)
    except Exception as error:  # ValueError, ImportError, and every protocol has errors of its own
        unknown = re.fullmatch(r"Protocol not known: (\S+)", str(error))
        hint = nearest(unknown[1], available_protocols()) if unknown else ""
        raise ManifestError(f"cannot open {address}: {reason(error)}{hint}") from error
    return files, str(path)


def absolute(address: str) -> str:
    """The same address so that it holds in any working directory, on any machine, and can be joined to.

    Raises:
        ManifestError: as :func:`connect`.
    """
    first, chain, rest = address.partition("::")
    if is_url(address):
        files, path = connect(address)
        if chain and "://" not in first:  # dir::file:///x is the path /x in a file system of its own
            return f"{first}://{path}::{rest}"
        return path if not chain and _is_local(files) else address
    return os.path.abspath(os.path.expanduser(address))


def join(folder: str, name: str) -> str:
    """Address of the file called ``name`` in ``folder``, which is :func:`absolute`."""
    head, path, tail = split(folder)
    return f"{head}{path.rstrip('/')}/{name}{tail}" if path else f"{head}{name}{tail}"


def resolve(folder: str, given: str) -> str:
    """Address of what a file in ``folder`` calls ``given``: a path relative to the folder, or one that stands alone."""
    if stands_alone(given):
        return given if is_url(given) else absolute(given)
    head, path, tail = split(join(folder, given))
    if {".", ".."} & set(given.split("/")):  # object stores know no such folders
        path = posixpath.normpath(path)
    return f"{head}{path}{tail}"


def stands_alone(address: str) -> bool:
    """Whether an address means the same in every folder."""
    return is_url(address) or address.startswith(("/", "~"))


def parent(address: str) -> tuple[str, str]:
    """Folder of a file, and the file's name in it."""
    head, path, tail = split(address)
    folder, slash, name = path.rpartition("/")
    return f"{head}{folder or slash}{tail}", name


def split(address: str) -> tuple[str, str, str]:
    """What stands before the path in an address, the path, and what stands behind it."""
    first, chain, rest = address.partition("::")
    if chain and "://" not in first:
        head, path, tail = split(rest)
        return f"{first}::{head}", path, tail
    protocol, mark, path = first.rpartition("://")
    return f"{protocol}{mark}", path, f"{chain}{rest}"


def is_url(address: str) -> bool:
    """Whether it is an fsspec URL, and no path on this machine."""
    return "://" in address or "::" in address


def plain_path(address: str) -> str:
    """The path of an address, without the query of a web address: what names and endings are read from."""
    head, path, _ = split(address)
    return re.split(r"[?#]", path, maxsplit=1)[0] if head.startswith(("http://", "https://")) else path


def reason(error: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_local(files: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(files, LocalFileSystem)
