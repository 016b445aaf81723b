"""ASGI: every HTTP request and every WebSocket connection of an application becomes an action, from the call of the
application to its return.

What the request's tasks do belongs to it, on whichever thread, until it has ended: child tasks, ``asyncio.to_thread``
and frameworks' thread pools inherit it with their context. The action is named by the route template where the
framework leaves it in the scope (Starlette, FastAPI), else by the path with numbers, UUIDs and hex runs replaced. A
request's ``X-Task-UUID`` header is taken over, and the response carries the header.
"""

from __future__ import annotations

from typing import Any, Awaitable, Callable, Optional

from ._switch import _runtime, forbidden

AsgiCallable = Callable[[Any, Any, Any], Awaitable[Any]]


class AsgiApplication:
    """What `wrap` returns: the application, whose attributes can be reached through it. A coroutine function, since
    servers ask for one to tell ASGI 3 from older kinds."""

    __slots__ = ('application', '_name', '__weakref__')

    application: AsgiCallable

    def __init__(self, application: AsgiCallable, name: Optional[str]) -> None:
        object.__setattr__(self, 'application', application)
        object.__setattr__(self, '_name', name)

    @property
    def __wrapped__(self) -> AsgiCallable:
        return self.application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        request = _runtime.asgi_begin(scope, send, self._name)
        if request is None:
            return await self.application(scope, receive, send)
        failed = False
        try:
            return await self.application(scope, receive, request)
        except Exception:
            failed = True
            raise
        finally:
            request.end(failed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.application, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.application, name, value)

    def __repr__(self) -> str:
        return '<profilomatic.asgi wrapper of %r>' % (self.application,)


def wrap(app: AsgiCallable, name: Optional[str] = None) -> AsgiCallable:
    """The ASGI 3 application, wrapped; usable as a decorator. `name` names all its actions alike.

    What is wrapped already is returned as it is. Where nothing can or may be profiled the application itself is
    returned.
    """
    if not callable(app):
        raise TypeError('an ASGI application is callable, unlike %r' % (app,))
    if isinstance(app, AsgiApplication) or forbidden():
        return app
    return AsgiApplication(app, name)
