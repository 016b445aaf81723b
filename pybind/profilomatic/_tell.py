"""The one place that speaks to the application's stderr: a line each, each line once a process."""

from __future__ import annotations

import os
import sys
from typing import Set

_told: Set[str] = set()
_TREE_MARK = 'PROFILOMATIC_TOLD'


def tell(text: str) -> None:
    """Write ``profilomatic: <text>`` to stderr, once. Never raises: a closed stderr is the application's affair."""
    if text in _told:
        return
    _told.add(text)
    try:
        sys.stderr.write('profilomatic: %s\n' % text)
        sys.stderr.flush()
    except Exception:
        pass


def tell_tree(text: str) -> None:
    """As `tell`, but at most one such line in this process and those it starts."""
    if os.environ.get(_TREE_MARK):
        return
    os.environ[_TREE_MARK] = '1'
    tell(text)
