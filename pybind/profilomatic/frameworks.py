"""Frameworks: a request is named by the template of its route, once the framework has found the route.

Flask (Werkzeug's request) and Bottle leave their route in the request's environ themselves, where the wrapper looks it
up. Django, Pyramid and Falcon keep it to themselves: a function of theirs that has just found it also notes it in
the environ, or in an ASGI scope, as ``profilomatic.route``. An application may put its own name for a request there.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from . import _imports
from ._guard import failed

ROUTE = 'profilomatic.route'


def _note(request: Any, template: Any) -> None:
    """Leave `template` where the wrapper looks for it. Werkzeug-like, WebOb, Django and Falcon requests are known."""
    if not isinstance(template, str):
        return
    for attribute in ('environ', 'env', 'scope'):
        where = getattr(request, attribute, None)
        if isinstance(where, dict):
            where[ROUTE] = template if template.startswith('/') else '/' + template
            return


def _after(owner: Any, method: str, template: Callable[[Any], Any]) -> None:
    """Have each call ``owner.method(self, request)`` note the `template` of its result."""
    original = getattr(owner, method)
    if hasattr(original, '__profilomatic__'):
        return

    @functools.wraps(original)
    def routed(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, request, *args, **kwargs)
        try:
            _note(request, template(result))
        except Exception as error:
            failed('the name of a route', error)
        return result

    routed.__profilomatic__ = True  # type: ignore[attr-defined]
    setattr(owner, method, routed)


def _django_template(match: Any) -> Any:
    """``item/<int:id>/``, or of a pattern by ``re_path`` the regular expression."""
    route = match.route
    return route[1:] if isinstance(route, str) and route.startswith('^') else route


def _django(module: Any) -> None:
    _after(module.BaseHandler, 'resolve_request', _django_template)


def _pyramid(module: Any) -> None:
    _after(module.RoutesMapper, '__call__', lambda info: getattr(info['route'], 'pattern', None))


def _falcon(module: Any) -> None:
    _after(module.App, '_get_responder', lambda found: found[3])


_PATCHES = {
    'django.core.handlers.base': _django,
    'pyramid.urldispatch': _pyramid,
    'falcon.app': _falcon,
}


def install() -> None:
    """Have the known frameworks tell their routes, those that are loaded and those to come. Calling it again does
    nothing."""
    _imports.after_import(_PATCHES)
