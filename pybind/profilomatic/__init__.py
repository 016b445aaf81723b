"""Profil-o-matic: which high-level actions of a pool of Python workers are slow, which lines make them slow, and why.

    import profilomatic
    profilomatic.configure(max_overhead='2%')
    profilomatic.add_destination(profilomatic.file_destination('profile.log'))   # starts profiling

    with profilomatic.action('report:build', customer=7):
        ...

Importing this package starts nothing. Profiling starts with the first destination, or with
PROFILOMATIC_ENABLED=1 under ``profilomatic run``; what cannot be started is told once on stderr and the
application runs on. All functions may be called on any thread; settings and destinations are inherited by
forked processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Union, cast

from . import asgi, wsgi
from ._action import Action, action, profiled
from ._switch import _runtime, switch
from .destinations import (
    FileDestination,
    RestDestination,
    file_destination,
    no_flush_destination,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import celery as celery
    from . import eliot as eliot
    from . import gunicorn as gunicorn
    from . import otel as otel
    from . import uwsgi as uwsgi
    from .settings import Options

__version__ = '0.1.0'

#: 'native' where the extension serves this interpreter; else 'python': the same for one process, in pure Python.
implementation = 'native' if switch.native else 'python'

Destination = Union[FileDestination, RestDestination, Callable[[Dict[str, Any]], object]]


def configure(**options: Unpack[Options]) -> None:
    """Set options for this process and those forked from it; call it again to change some.

    max_overhead: fraction of the pool's CPU that profiling may cost (0.02 or "2%"), from 0.0005 to 0.5.
    time_granularity: finest sampling interval in seconds. code_granularity: 'file', 'method' or 'line'.
    store_all_logs: put every Eliot message into the call graph. max_actions_per_run: newly profiled actions a cycle
    over all workers, 0 for no cap. max_action_types: how many types of actions are told apart over all workers, at
    most 1000; the rest are '(other)'. source_name: the pool's name, by default the host's. scope: 'actions' or
    'process'.

    TypeError for an unknown option, ValueError for a bad value; nothing is changed then.
    """
    switch.configure(cast('Dict[str, Any]', options))


def add_destination(destination: Destination) -> None:
    """Send messages about profiled actions to `destination`; this starts profiling. Adding it again does nothing.

    A callable is called with one dict for each profiled action of its own process; what it raises is told once
    and counted.
    """
    switch.add(destination)


def remove_destination(destination: Destination) -> None:
    """Take a destination back, after handing over what was profiled so far (at most 2 s).

    A file or a server is taken back for the whole pool. Without any destination left, profiling ends in this
    process. ValueError if it was not added.
    """
    switch.remove(destination)


def current_task_uuid() -> Optional[str]:
    """The task UUID of the action that this thread is in, or None."""
    return _runtime.current_task_uuid()  # type: ignore[no-any-return]


def status() -> Dict[str, Any]:
    """What ``profilomatic status --json`` prints, and this process's own view under ``process`` and ``settings``.

    Waits at most a second for the aggregator; ``aggregator`` is None if it does not answer. ``reason`` says why
    profiling could not be switched on.
    """
    return switch.status()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What is an integration with something of its own is imported when it is first used."""
        if name in ('celery', 'eliot', 'gunicorn', 'otel', 'uwsgi'):
            import importlib

            return importlib.import_module(__name__ + '.' + name)
        raise AttributeError('module %r has no attribute %r' % (__name__, name))


__all__ = [
    'Action',
    'Destination',
    'FileDestination',
    'RestDestination',
    'action',
    'add_destination',
    'asgi',
    'configure',
    'current_task_uuid',
    'file_destination',
    'implementation',
    'no_flush_destination',
    'profiled',
    'remove_destination',
    'status',
    'wsgi',
]
