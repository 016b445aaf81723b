"""The WSGI wrapper: an action from the call of the application to the close() of what it returned (PEP 3333)."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterator, Optional

from .._guard import failed
from .actions import Action

TASK_KEY = 'profilomatic.task_uuid'
NAME_MOST = 200  # bytes of a normalised path

_TRACEPARENT = re.compile(
    '(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?', re.ASCII
)
_UUID = re.compile('[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}')
_HEX = re.compile('(?=.*[0-9])[0-9a-fA-F]{8,}')

#: callable(environ) -> str | None names a request's route; or None.
template: Optional[Callable[[Dict[str, Any]], Optional[str]]] = None


def _normalise_segment(segment: str) -> str:
    if re.fullmatch('[0-9]+', segment):
        return '<int>'
    if _UUID.fullmatch(segment):
        return '<uuid>'
    if _HEX.fullmatch(segment):
        return '<hex>'
    return re.sub('[\x00-\x1f\x7f\ufffd]', '?', re.sub('[0-9]{3,}', '<int>', segment))


def normalise(path: str) -> str:
    """A bounded set of names out of request paths (which stand in WSGI's strings byte by byte)."""
    text = path.encode('latin-1', 'replace').decode('utf-8', 'replace')
    name = '/'.join(map(_normalise_segment, text.split('/'))) or '/'
    return name.encode()[:NAME_MOST].decode('utf-8', 'ignore')


def _attribute(value: Any, *names: str) -> Any:
    for name in names:
        value = getattr(value, name, None)
    return value


def route_template(environ: Dict[str, Any]) -> Optional[str]:
    """The route that the framework has found, if it is known."""
    found = environ.get('profilomatic.route')
    if found is None:
        found = _attribute(environ.get('werkzeug.request'), 'url_rule', 'rule')
    if found is None:
        found = _attribute(environ.get('bottle.route'), 'rule')
    if found is None and template is not None:
        found = template(environ)
    return found if isinstance(found, str) else None


def _given_uuid(environ: Dict[str, Any]) -> Optional[str]:
    given = environ.get('HTTP_X_TASK_UUID')
    if isinstance(given, str):
        return given
    parent = environ.get('HTTP_TRACEPARENT')
    return task_of_trace(parent) if isinstance(parent, str) else None


def task_of_trace(parent: str) -> Optional[str]:
    """The trace that a traceparent header names, as a UUID."""
    match = _TRACEPARENT.fullmatch(parent)
    if match is None or (match.group(1) == '00' and match.group(3)):
        return None
    trace = match.group(2)
    return '-'.join((trace[:8], trace[8:12], trace[12:16], trace[16:20], trace[20:]))


class Request:
    """One request: its action, and the start_response that the application gets."""

    def __init__(self, environ: Dict[str, Any], start_response: Callable[..., Any], name: Optional[str]) -> None:
        self._environ = environ
        self._start_response = start_response
        self._name = name
        self.error = False
        self._path = normalise(str(environ.get('SCRIPT_NAME', '')) + str(environ.get('PATH_INFO', '')))
        given = _given_uuid(environ)
        self.action = Action(name or self._path, given)
        self.action.begin()
        if self.action.open:
            environ[TASK_KEY] = self.action.task_uuid
            if not isinstance(environ.get('HTTP_X_TASK_UUID'), str):
                environ['HTTP_X_TASK_UUID'] = self.action.task_uuid

    def _note_route(self) -> None:
        if self._name is None:
            try:
                self._name = route_template(self._environ)
            except Exception as error:
                failed('the name of a route', error)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) >= 2:
            status, headers = args[:2]
            if isinstance(status, str):
                self.error = '5' <= status[:1] <= '9'
            self._note_route()  # now, because Flask drops its request from the environ before close()
            if isinstance(headers, list) and not any(_is_ours(header) for header in headers):
                args = (status, [*headers, ('X-Task-UUID', self.action.task_uuid)], *args[2:])
        return self._start_response(*args, **kwargs)

    def finish(self) -> None:
        if self.action.open:
            self._note_route()
            try:
                self.action.end_as(self._name or self._path, self.error)
            except Exception as error:
                failed('the end of a request', error)


def _is_ours(header: Any) -> bool:
    return (
        isinstance(header, tuple)
        and len(header) == 2
        and isinstance(header[0], str)
        and header[0].lower() == 'x-task-uuid'
    )


class Body:
    """What goes to the server in place of the application's iterable."""

    def __init__(self, request: Request, iterable: Any) -> None:
        self._request = request
        self._iterable = iterable
        self._iterator: Optional[Iterator[bytes]] = None

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                if self._iterable is None:
                    raise StopIteration
                self._iterator = iter(self._iterable)
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException:
            self._request.error = True
            raise

    def close(self) -> None:
        """Close the application's iterable and end the action."""
        iterable, self._iterable, self._iterator = self._iterable, None, None
        try:
            close = getattr(iterable, 'close', None)
            if close is not None:
                close()
        except BaseException:
            self._request.error = True
            raise
        finally:
            self._request.finish()

    def __getattr__(self, name: str) -> Any:
        """Who is no server may look at what it got as at what the application returned."""
        return getattr(self.__dict__.get('_iterable'), name)

    def __bytes__(self) -> bytes:
        return bytes(self._iterable)

    def __del__(self) -> None:
        self._request.finish()


class SizedBody(Body):
    """A body that is known to be complete: servers look for a length of 1."""

    def __len__(self) -> int:
        return 0 if self._iterable is None else len(self._iterable)


def _hook_close(request: Request, result: Any) -> None:
    """A file wrapper stays one, for the server's sake; its close() ends the action."""
    original = getattr(result, 'close', None)

    def close(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs) if original is not None else None
        finally:
            request.finish()

    try:
        result.close = close
    except Exception:
        request.finish()


def _body_of(request: Request, environ: Dict[str, Any], result: Any) -> Any:
    wrapper = environ.get('wsgi.file_wrapper')
    if isinstance(wrapper, type) and isinstance(result, wrapper):
        _hook_close(request, result)
        return result
    if isinstance(result, (bytes, bytearray, str)) or not (
        hasattr(result, '__iter__') or hasattr(result, '__getitem__')
    ):
        request.finish()  # the server's own way with it is the right one
        return result
    return (SizedBody if hasattr(result, '__len__') else Body)(request, result)


class WsgiApplication:
    """The wrapped application; whatever else that has can be reached through it."""

    def __init__(self, application: Callable[..., Any], name: Optional[str]) -> None:
        object.__setattr__(self, 'application', application)
        object.__setattr__(self, '__wrapped__', application)
        object.__setattr__(self, '_profilomatic_name', name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        application: Callable[..., Any] = object.__getattribute__(self, 'application')
        if kwargs or len(args) != 2 or type(args[0]) is not dict or TASK_KEY in args[0]:
            return application(*args, **kwargs)
        environ, start_response = args
        try:
            request = Request(environ, start_response, object.__getattribute__(self, '_profilomatic_name'))
        except Exception as error:
            failed('the begin of a request', error)
            return application(*args)
        if not request.action.open:
            return application(*args)
        try:
            result = application(environ, request)
        except BaseException:
            request.error = True
            request.finish()
            raise
        return _body_of(request, environ, result)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, 'application'), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, 'application'), name, value)

    def __repr__(self) -> str:
        return '<profilomatic.wsgi wrapper of %r>' % (object.__getattribute__(self, 'application'),)


def wrap(app: Callable[..., Any], name: Optional[str] = None) -> WsgiApplication:
    if isinstance(app, WsgiApplication):
        return app
    if not callable(app):
        raise TypeError('wrap() needs a WSGI application (a callable), not %.100s' % type(app).__name__)
    if name is not None and not isinstance(name, str):
        raise TypeError('name must be a str or None, not %.100s' % type(name).__name__)
    return WsgiApplication(app, name)
