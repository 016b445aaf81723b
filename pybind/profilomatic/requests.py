"""Requests: what this pool asks of the aggregator, one small file each in the pool's ``requests/``.

A file is named by the hash of its content, so N workers that ask the same make one file, and it appears by rename, so
that the aggregator never reads half of one.
"""

from __future__ import annotations

import os
from typing import Any, Mapping


def canonical(request: Mapping[str, Any]) -> bytes:
    """The request as JSON with sorted keys and no spaces: equal requests are equal bytes."""
    import json

    return json.dumps(request, sort_keys=True, separators=(',', ':')).encode()


def file_name(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()[:32] + '.json'


def write(pool: str, request: Mapping[str, Any]) -> str:
    """Put `request` into the pool (which must exist) and return the file's name. OSError if it cannot be written."""
    content = canonical(request)
    name = file_name(content)
    folder = os.path.join(pool, 'requests')
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return name
    temporary = os.path.join(folder, '.%s.%d' % (name, os.getpid()))
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, 'O_CLOEXEC', 0), 0o600)
    try:
        try:
            written = os.write(fd, content)
        finally:
            os.close(fd)
        if written != len(content):
            raise OSError('%s: only %d of %d bytes could be written' % (path, written, len(content)))
        os.rename(temporary, path)
    except OSError:
        _unlink(temporary)
        raise
    return name


def remove(pool: str, name: str) -> None:
    """Take a request back. A file that is gone already is fine."""
    _unlink(os.path.join(pool, 'requests', name))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
