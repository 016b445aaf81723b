"""Celery: every task becomes an action of the task's name, wherever the pool runs it.

    import profilomatic.celery
    profilomatic.celery.patch()          # where the Celery application is made; under `profilomatic run` not needed

A task belongs to the task UUID of the action that published it, which goes along as the message's header
``x_task_uuid``; one that was published outside any action has its Celery id as task UUID. A task that fails counts as
an error, one that is retried, rejected or ignored does not.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

from celery import signals  # type: ignore[import-untyped,import-not-found,unused-ignore]

from ._guard import failed
from ._switch import _runtime, switch

HEADER = 'x_task_uuid'
OPEN_TASKS = 4096  # tasks remembered at once; a pool runs one a thread or greenlet

_open: Dict[Tuple[str, int], Any] = {}


def _published(headers: Any = None, **rest: Any) -> None:
    try:
        uuid = _runtime.current_task_uuid()
        if uuid is not None and isinstance(headers, dict):
            headers.setdefault(HEADER, uuid)
    except Exception as error:
        failed('the publication of a Celery task', error)


def _began(task_id: Any = None, task: Any = None, **rest: Any) -> None:
    try:
        uuid = getattr(task.request, HEADER, None) or task_id
        action = _runtime.Action(str(task.name), str(uuid))
        action.begin()
        # The request's own identity too: a task that is run eagerly inside itself has the same id.
        _open[(str(task_id), id(task.request))] = action
        while len(_open) > OPEN_TASKS:
            _open.pop(next(iter(_open))).end()
    except Exception as error:
        failed('the begin of a Celery task', error)


def _ended(task_id: Any = None, task: Any = None, state: Any = None, **rest: Any) -> None:
    try:
        action = _open.pop((str(task_id), id(task.request)), None)
        if action is not None:
            action.end(error=state == 'FAILURE')
    except Exception as error:
        failed('the end of a Celery task', error)


def _pool_process_ends(**rest: Any) -> None:
    """The processes of a prefork pool end without Python's own exit."""
    try:
        if switch.on and switch.callables():
            switch.flush()
    except Exception as error:
        failed('the end of a Celery process', error)


_RECEIVERS = (
    ('before_task_publish', _published),
    ('task_prerun', _began),
    ('task_postrun', _ended),
    ('worker_process_shutdown', _pool_process_ends),
)


def patch() -> None:
    """Follow Celery's tasks from now on, in this process and those forked from it. Calling it again does nothing."""
    for name, receiver in _RECEIVERS:
        getattr(signals, name).connect(receiver, weak=False, dispatch_uid='profilomatic')


def unpatch() -> None:
    """Follow them no longer; tasks that are running end their actions now. Calling it again does nothing."""
    for name, receiver in _RECEIVERS:
        getattr(signals, name).disconnect(receiver, dispatch_uid='profilomatic')
    while _open:
        _open.popitem()[1].end()
