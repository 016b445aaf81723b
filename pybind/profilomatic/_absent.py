"""What stands for the extension where neither it nor its stand-in in pure Python may run: in a sub-interpreter with a
GIL of its own. It profiles nothing. It imports nothing either: CPython 3.12 waits for ever for the end of such an
interpreter that has imported `threading` on another thread, and aborts at the end of one that has imported `hashlib`.
"""

from __future__ import annotations

from typing import Any, Optional


class Action:
    """An action that is neither counted nor profiled."""

    task_uuid: Optional[str] = None
    profiled = False

    def __init__(self, name: str, task_uuid: Optional[str] = None) -> None:
        pass

    def begin(self) -> None:
        pass

    def end(self, error: bool = False) -> None:
        pass


def wrap(application: Any) -> Any:
    return application


def directory_default() -> str:
    return ''


def status() -> dict[str, Any]:
    return {}


def _nothing(*_arguments: Any) -> None:
    return None


def __getattr__(name: str) -> Any:
    """Any other function of the extension's."""
    if name.startswith('__'):
        raise AttributeError(name)
    return _nothing
