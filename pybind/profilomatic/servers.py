"""Servers: the WSGI or ASGI application is wrapped where its server takes it, without a change to the application."""

from __future__ import annotations

from typing import Any, Callable, Dict

from . import _imports, asgi, wsgi
from ._tell import tell


def _wrap_attribute(holder: Any, name: str, wrap: Callable[[Any], Any] = wsgi.wrap) -> None:
    """Replace ``holder.name`` by its wrapped self; on any surprise it stays as it is, with one line."""
    try:
        setattr(holder, name, wrap(getattr(holder, name)))
    except Exception as error:
        tell('an application is not profiled, it could not be wrapped: %r' % error)


def _after(owner: Any, method: str, then: Callable[..., None]) -> None:
    """Have ``then(self)`` run after each call of ``owner.method``."""
    import functools

    original = getattr(owner, method)
    if hasattr(original, '__profilomatic__'):
        return

    @functools.wraps(original)
    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        try:
            then(self)
        except Exception as error:
            tell('an application is not profiled: %r' % error)
        return result

    patched.__profilomatic__ = True  # type: ignore[attr-defined]
    setattr(owner, method, patched)


def wrap_gunicorn_worker(worker: Any) -> None:
    """Wrap the application a gunicorn worker has loaded, unless it is an ASGI one."""
    app = getattr(worker, 'wsgi', None)
    if app is None:
        return
    names = [cls.__module__ + '.' + cls.__name__ for cls in type(worker).__mro__]
    if any('uvicorn' in name.lower() or 'asgi' in name.lower() for name in names):
        return
    import inspect

    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
        return
    _wrap_attribute(worker, 'wsgi')


def _gunicorn(module: Any) -> None:
    _after(module.Worker, 'load_wsgi', wrap_gunicorn_worker)


def _gunicorn_asgi(module: Any) -> None:
    _after(module.ASGIWorker, 'load_wsgi', lambda worker: _wrap_attribute(worker, 'asgi', asgi.wrap))


def _wsgiref(module: Any) -> None:
    _after(module.WSGIServer, 'set_app', lambda server: _wrap_attribute(server, 'application'))


def _werkzeug(module: Any) -> None:
    _after(module.BaseWSGIServer, '__init__', lambda server: _wrap_attribute(server, 'app'))


def _waitress(module: Any) -> None:
    _after(module.BaseWSGIServer, '__init__', lambda server: _wrap_attribute(server, 'application'))


def _celery(module: Any) -> None:
    from . import celery

    celery.patch()


def _uvicorn(module: Any) -> None:
    """Its own command and gunicorn's workers alike load the application so; an older kind of it is ASGI 3 by then."""
    _after(module.Config, 'load', lambda config: _wrap_attribute(config, 'loaded_app', asgi.wrap))


_PATCHES: Dict[str, Callable[[Any], None]] = {
    'gunicorn.workers.base': _gunicorn,
    'gunicorn.workers.gasgi': _gunicorn_asgi,
    'wsgiref.simple_server': _wsgiref,
    'celery.signals': _celery,
    'werkzeug.serving': _werkzeug,
    'waitress.server': _waitress,
    'uvicorn.config': _uvicorn,
}


def install() -> None:
    """Patch the known servers, now or when they are imported. Calling it again does nothing."""
    from . import frameworks, uwsgi

    if uwsgi.patch_for not in _imports.lookups:
        _imports.lookups.append(uwsgi.patch_for)
    _imports.after_import(_PATCHES)
    frameworks.install()
    uwsgi.watch_files()
