"""What an action hands to a thread pool, or to a greenlet that it spawns, is still its own.

Tasks of asyncio, ``asyncio.to_thread`` and AnyIO's threads take their context with them, and so the action. A
``ThreadPoolExecutor`` (also under ``run_in_executor``), gevent and eventlet do not; here they are taught to, for the
action alone. Their modules are patched when they are imported; nothing is imported for it.
"""

from __future__ import annotations

import functools
from typing import Any

from . import _imports
from ._guard import failed
from ._switch import _runtime


def _thread_pool(module: Any) -> None:
    original = module.ThreadPoolExecutor.submit
    if hasattr(original, '__profilomatic__'):
        return

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return original(self, _runtime.carry(fn), *args, **kwargs)

    submit.__profilomatic__ = True  # type: ignore[attr-defined]
    module.ThreadPoolExecutor.submit = submit


def _give_context(greenlet: Any) -> None:
    """A greenlet that has not run yet begins in an empty context, unless somebody gave it one."""
    try:
        context = _runtime.carried_context()
        if context is not None and greenlet.gr_context is None:
            greenlet.gr_context = context
    except Exception as error:
        failed('handing an action to a greenlet', error)


def _gevent(module: Any) -> None:
    module.Greenlet.add_spawn_callback(_give_context)


def _eventlet(module: Any) -> None:
    original = module.GreenThread.__init__
    if hasattr(original, '__profilomatic__'):
        return

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _give_context(self)

    __init__.__profilomatic__ = True  # type: ignore[attr-defined]
    module.GreenThread.__init__ = __init__


def install() -> None:
    """Patch them now, or when they are imported. Calling it again does nothing."""
    _imports.after_import(
        {
            'concurrent.futures.thread': _thread_pool,
            'gevent.greenlet': _gevent,
            'eventlet.greenthread': _eventlet,
        }
    )
