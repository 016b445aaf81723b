"""The implementation in pure Python, where the extension cannot be loaded (PyPy, a CPython that it was not built for).

It has the face of the extension, so that everything above it is the same, and differs in this: it serves one process
and needs no aggregator; a Python thread samples, where stacks of other threads can be read (see `stacks`); the caps
hold for this process alone; destinations are served here, and get messages of kind ``action``, and with scope 'process'
``profile`` for the time outside any action. `docs/fallback.md` says more.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from . import actions, wsgi
from .actions import Action, carried_context, carry, current, set_current
from .asgi import AsgiRequest, asgi_begin
from .engine import Engine
from .wsgi import WsgiApplication, wrap

engine = Engine()


def enable(
    directory: str,
    source: str,
    aggregator: Optional[str] = None,
    on_attach: Optional[Callable[[], object]] = None,
    process: bool = False,
) -> None:
    """Profile from now on, in this process and those forked from it. Only `source` and `process` matter here."""
    engine.source = source
    engine.whole = process
    engine.enable()


def serve(settings: Any, destinations: List[Any]) -> None:
    """What is asked for now."""
    engine.max_overhead = settings['max_overhead']
    engine.interval = settings['time_granularity']
    engine.granularity = settings['code_granularity']
    engine.cap = settings['max_actions_per_run']
    engine.types_most = settings['max_action_types']
    engine.outlet.destinations = list(destinations)


def flush() -> bool:
    """Wait until everything that ended was handed over; at most 2 s."""
    return engine.flush()


def disable() -> None:
    engine.enabled = False


def enabled() -> bool:
    return engine.enabled


def attach() -> bool:
    engine.attach()
    return engine.enabled


def status() -> Dict[str, Any]:
    return engine.status()


def current_task_uuid() -> Optional[str]:
    action = current()
    return None if action is None else action.task_uuid


def longest_text() -> int:
    """As much of a logged message as the extension takes."""
    return 4064


def set_template(callable: Optional[Callable[[Dict[str, Any]], Optional[str]]]) -> None:
    wsgi.template = callable


def set_noter(callable: Optional[Callable[[Action], object]]) -> None:
    actions.noter = callable


def directory_default() -> str:
    """There is no runtime directory."""
    return ''


__all__ = [
    'Action',
    'AsgiRequest',
    'WsgiApplication',
    'asgi_begin',
    'attach',
    'carried_context',
    'carry',
    'current',
    'current_task_uuid',
    'directory_default',
    'disable',
    'enable',
    'enabled',
    'flush',
    'longest_text',
    'serve',
    'set_current',
    'set_noter',
    'set_template',
    'status',
    'wrap',
]
