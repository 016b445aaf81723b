"""The inner half of the ASGI wrapper: one request, which is the `send` that the application gets."""

from __future__ import annotations

from typing import Any, Optional

from .._guard import failed
from .actions import Action
from .wsgi import NAME_MOST, TASK_KEY, normalise, task_of_trace


def _normalised(path: Any) -> str:
    # ASGI's paths are text, WSGI's are bytes in Latin-1.
    return normalise(str(path or '').encode('utf-8', 'replace').decode('latin-1'))


def _header(headers: Any, wanted: bytes) -> Optional[bytes]:
    """The value of a header, of pairs of bytes; what is no such pair is passed over."""
    for pair in headers if isinstance(headers, (list, tuple)) else ():
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, bytes) for part in pair):
            if pair[0].lower() == wanted:
                return bytes(pair[1])
    return None


def _given_uuid(scope: Any) -> Optional[str]:
    given = _header(scope.get('headers'), b'x-task-uuid')
    if given is not None:
        return given.decode('latin-1')
    parent = _header(scope.get('headers'), b'traceparent')
    return None if parent is None else task_of_trace(parent.decode('latin-1'))


class AsgiRequest:
    def __init__(self, scope: Any, send: Any, name: Optional[str]) -> None:
        self._scope = scope
        self._send = send
        self._name = name
        self._root = str(scope.get('root_path') or '')
        self._path = _normalised(scope.get('path'))
        self._error = False
        self.action = Action(name or self._path, _given_uuid(scope))
        self.action.begin()
        if self.action.open:
            scope[TASK_KEY] = self.action.task_uuid

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], dict) and args[0].get('type') == 'http.response.start':
            try:
                args = (self._look_at(args[0]),)
            except Exception as error:
                failed('the answer of a request', error)
        return self._send(*args, **kwargs)

    def _look_at(self, message: Any) -> Any:
        status = message.get('status')
        self._error = self._error or (isinstance(status, int) and status >= 500)
        headers = message.get('headers', [])
        if not isinstance(headers, (list, tuple)) or _header(headers, b'x-task-uuid') is not None:
            return message
        return {**message, 'headers': [*headers, (b'x-task-uuid', self.action.task_uuid.encode())]}

    def _route(self) -> Optional[str]:
        """The template that a framework has left in the scope, below what mounted applications are mounted at."""
        found = self._scope.get('profilomatic.route')
        if isinstance(found, str):
            return found
        route = self._scope.get('route')
        if route is None:
            return None
        root = str(self._scope.get('root_path') or '')
        mounted = root[len(self._root) :] if root.startswith(self._root) else ''
        path = getattr(route, 'path', None) if not mounted or hasattr(route, 'endpoint') else ''
        name = (_normalised(mounted) if mounted else '') + (path if isinstance(path, str) else '')[:NAME_MOST]
        return name or None

    def end(self, has_failed: bool) -> None:
        """End the request's action. Twice is harmless."""
        self._error = self._error or has_failed
        name = self._name
        try:
            name = name or self._route()
        except Exception as error:
            failed('the name of a route', error)
        try:
            self.action.end_as(name or self._path, self._error)
        except Exception as error:
            failed('the end of a request', error)


def asgi_begin(scope: Any, send: Any, name: Optional[str]) -> Optional[AsgiRequest]:
    """The request, if this is one that shall be an action; whatever goes wrong, it runs without."""
    try:
        if not isinstance(scope, dict) or scope.get('type') not in ('http', 'websocket') or TASK_KEY in scope:
            return None
        request = AsgiRequest(scope, send, name)
        return request if request.action.open else None
    except Exception as error:
        failed('the begin of a request', error)
        return None
