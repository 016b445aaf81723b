"""Servers: the WSGI application is wrapped where its server takes it, without a change to the application.

A finder at the head of ``sys.meta_path`` finds nothing itself: when one of the modules in `_PATCHES` is
imported, it lets the others find it and has the patch run right after the module's own code. Modules that are
loaded already are patched at once.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, Optional, Set

from . import wsgi
from ._tell import tell


def _wrap_attribute(holder: Any, name: str) -> None:
    """Replace ``holder.name`` by its wrapped self; on any surprise it stays as it is, with one line."""
    try:
        setattr(holder, name, wsgi.wrap(getattr(holder, name)))
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


def _wsgiref(module: Any) -> None:
    _after(module.WSGIServer, 'set_app', lambda server: _wrap_attribute(server, 'application'))


def _werkzeug(module: Any) -> None:
    _after(module.BaseWSGIServer, '__init__', lambda server: _wrap_attribute(server, 'app'))


def _waitress(module: Any) -> None:
    _after(module.BaseWSGIServer, '__init__', lambda server: _wrap_attribute(server, 'application'))


_PATCHES: Dict[str, Callable[[Any], None]] = {
    'gunicorn.workers.base': _gunicorn,
    'wsgiref.simple_server': _wsgiref,
    'werkzeug.serving': _werkzeug,
    'waitress.server': _waitress,
}


def run_after_import(spec: Any, patch: Callable[[Any], None]) -> Any:
    """Have ``patch(module)`` run right after the code of the module that `spec` finds. The loader keeps its
    type, since others ask it for sources and resources."""
    loader = spec.loader
    if loader is None or isinstance(loader, type) or not hasattr(loader, 'exec_module'):
        return spec
    original = loader.exec_module

    def exec_module(module: Any) -> None:
        original(module)
        if module.__name__ == spec.name:  # an importer of zip files is one loader for many modules
            _run(patch, module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass
    return spec


def _run(patch: Callable[[Any], None], module: Any) -> None:
    try:
        patch(module)
    except Exception as error:
        tell('%s is not the version I know, its applications are not profiled: %r' % (module.__name__, error))


class _Finder:
    def __init__(self) -> None:
        self._searching: Set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        patch = _PATCHES.get(name)
        if patch is None:
            if 'uwsgi' not in sys.modules:
                return None
            from . import uwsgi

            patch = uwsgi.patch_for(name)
            if patch is None:
                return None
        if name in self._searching:
            return None
        self._searching.add(name)
        try:
            for finder in list(sys.meta_path):
                find_spec = None if finder is self else getattr(finder, 'find_spec', None)
                spec = None if find_spec is None else find_spec(name, path, target)
                if spec is not None:
                    return run_after_import(spec, patch)
            return None
        finally:
            self._searching.discard(name)


def install() -> None:
    """Patch the known servers, now or when they are imported. Calling it again does nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name, patch in _PATCHES.items():
        module = sys.modules.get(name)
        if module is not None:
            _run(patch, module)
    sys.meta_path.insert(0, _Finder())
    from . import uwsgi

    uwsgi.watch_files()
