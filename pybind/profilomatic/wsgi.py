"""WSGI: every request to an application becomes an action, from the call to the end of the response's ``close()``.

The action is named by the route template where the framework tells it, else by the path with numbers, UUIDs and
hex runs replaced. A request's ``X-Task-UUID`` header is taken over, and the response carries the header.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, TypeVar

from . import frameworks
from ._switch import _runtime, forbidden

_App = TypeVar('_App', bound=Callable[..., Any])


def wrap(app: _App, name: Optional[str] = None) -> _App:
    """The application, wrapped; usable as a decorator. `name` names all its actions alike.

    What is wrapped already is returned as it is. Attributes of the application can be reached through the
    wrapper, and it is its attribute ``application``. Where nothing can or may be profiled the application
    itself is returned.
    """
    if not callable(app):
        raise TypeError('a WSGI application is callable, unlike %r' % (app,))
    if forbidden():
        return app
    frameworks.install()
    return _runtime.wrap(app, name)  # type: ignore[no-any-return]
