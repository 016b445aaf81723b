"""Handing messages to their destinations, on a thread of its own: none may hold up the application or the sampler."""

from __future__ import annotations

import collections
import json
import threading
import time
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional

from .._guard import failed
from .._tell import tell
from ..delivery import threads_run
from .bell import Bell

WAITING_MOST = 1000  # messages; newer ones are dropped and counted
FLUSH_SECONDS = 2.0
_TRIES = (0.2, 1.0, 5.0)  # pauses before a message is sent again

Message = Dict[str, Any]


class _Told(NamedTuple):
    message: Message  # in the classic form
    task: Callable[[], List[Message]]  # the same in Eliot's


def _lines(asked: Dict[str, Any], told: _Told) -> str:
    """In the form that a destination asked for."""
    messages = told.task() if asked.get('form') == 'eliot' else [told.message]
    return ''.join(json.dumps(message) + '\n' for message in messages)


def _ssl_context(request: Dict[str, Any]) -> Any:
    import ssl

    context = ssl.create_default_context(cadata=request.get('ca_pem'))
    if not request.get('check_hostname', True) or not request.get('verify', True):
        context.check_hostname = False
    if not request.get('verify', True):
        context.verify_mode = ssl.CERT_NONE
    if request.get('certfile'):
        context.load_cert_chain(request['certfile'], request.get('keyfile'))
    return context


def _asked(destination: Any) -> Optional[Dict[str, Any]]:
    request: Callable[[], Optional[Dict[str, Any]]] = getattr(destination, 'profilomatic_request', lambda: None)
    return request()


def _wants_profiles(destination: Any) -> bool:
    asked = _asked(destination)
    return asked is not None and bool(asked.get('profiles'))


def post(request: Dict[str, Any], lines: str) -> None:
    """Lines to a server, as `RestDestination` describes it. OSError if they were not taken."""
    import hashlib
    import urllib.request

    data = lines.encode()
    headers = {
        'Content-Type': 'application/json',
        'Idempotency-Key': '"%s"' % hashlib.sha256(data).hexdigest()[:32],  # a receiver may drop what comes again
    }
    if request.get('token_file'):
        with open(request['token_file'], encoding='utf-8') as file:
            token = file.read().strip()
        headers['Authorization'] = token if ' ' in token else 'Bearer ' + token
    call = urllib.request.Request(request['url'], data=data, headers=headers, method='POST')
    handlers: List[Any] = [urllib.request.ProxyHandler({})]
    if request['url'].startswith('https:'):
        handlers.append(urllib.request.HTTPSHandler(context=_ssl_context(request)))
    with urllib.request.build_opener(*handlers).open(call, timeout=request.get('timeout', 5)) as answer:
        answer.read()


class Outlet:
    """The destinations of this process and the messages that wait for them."""

    def __init__(self) -> None:
        self.destinations: List[Any] = []
        self.cpu_seconds = 0.0
        self.delivered = 0
        self.failed = 0
        self.dropped = 0
        self.broken: Dict[int, str] = {}  # id of a destination -> its last error
        self.forget()

    def forget(self) -> None:
        """After a fork: what waits is the parent's to deliver, and its thread is not here."""
        self._waiting: Deque[_Told] = collections.deque()
        self.thread: Optional[threading.Thread] = None
        self._wake = Bell()
        self._busy = False

    def put(self, message: Message, task: Callable[[], List[Message]] = list) -> None:
        """One message in the classic form; `task` makes it one in Eliot's, when a destination wants that."""
        if not self.destinations:
            return
        if len(self._waiting) >= WAITING_MOST:
            self.dropped += 1
            return
        self._waiting.append(_Told(message, task))
        if not threads_run():
            if not self._busy:  # else who is at it, perhaps further out on this very thread, hands it over too
                self._hand_over()
            return
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self._serve, name='pom-deliver', daemon=True)
            try:
                self.thread.start()
            except RuntimeError as error:  # there is no thread to be had; another message may find one
                failed('the start of the thread that delivers', error)
        self._wake.ring()

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait until everything was handed over; False if that took longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._waiting or self._busy:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    def status(self) -> Dict[str, Any]:
        return {
            'delivered': self.delivered,
            'failed': self.failed,
            'dropped': self.dropped,
            'waiting': len(self._waiting),
            'last_errors': sorted(set(self.broken.values())),
        }

    def _serve(self) -> None:
        while True:
            self._wake.wait()
            before = time.thread_time()
            self._hand_over()
            self.cpu_seconds += time.thread_time() - before

    def _hand_over(self) -> None:
        self._busy = True
        try:
            while self._waiting:
                told = self._waiting[0]
                for destination in list(self.destinations):
                    if told.message.get('kind') != 'profile' or _wants_profiles(destination):
                        self._call(destination, told)
                self._waiting.popleft()
        except IndexError:
            pass  # forgotten meanwhile
        finally:
            self._busy = False

    def _call(self, destination: Any, told: _Told) -> None:
        asked = _asked(destination)
        for pause in (*_TRIES, None):
            try:
                if asked is not None and 'url' in asked:
                    post(asked, _lines(asked, told))
                elif asked is not None:
                    with open(asked['path'], 'a', encoding='utf-8') as file:
                        file.write(_lines(asked, told))
                else:
                    destination(told.message)
                self.delivered += 1
                return
            except Exception as error:
                # Only a server may do better a moment later.
                if pause is not None and asked is not None and 'url' in asked and threads_run():
                    time.sleep(pause)
                    continue
                self._note(destination, error)
                return

    def _note(self, destination: Any, error: Exception) -> None:
        self.failed += 1
        if id(destination) not in self.broken:
            tell('destination %r failed: %r; told once, counted in status()' % (destination, error))
        self.broken[id(destination)] = repr(error)
