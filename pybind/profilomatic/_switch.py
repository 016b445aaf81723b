"""The switch: what this process asked for, and whether profiling is on.

There is one `Switch` a process (`switch`). A fork copies it, and nothing in it holds a thread, a lock or a
socket until the first action begins in a process: then the native part calls `_on_attach` once in that process,
which writes the request files and starts the delivery to in-process destinations.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from . import _trace, requests
from ._guard import failures
from ._tell import tell, tell_tree
from .settings import Settings

if TYPE_CHECKING:
    from .delivery import Delivery


def _why_not_native() -> Optional[str]:
    """Why the extension cannot be loaded here; None if it has been."""
    if os.environ.get('PROFILOMATIC_IMPLEMENTATION', '').strip().lower() == 'python':
        return 'PROFILOMATIC_IMPLEMENTATION=python'
    try:
        importlib.import_module(__package__ + '._runtime')
        return None
    except ImportError as error:
        if 't' in getattr(sys, 'abiflags', ''):
            return 'free-threaded builds of CPython are not supported by the native extension'
        version = sys.version_info[:2]
        missing = 'no native extension for this %s %d.%d (%s)' % (sys.implementation.name, *version, error)
        unbuilt = isinstance(error, ModuleNotFoundError) and sys.implementation.name == 'cpython'
        if unbuilt and (3, 10) <= version <= (3, 15):
            missing += '; `scons python=%s` builds it' % (sys.executable or 'PATH')
        return missing


missing = _why_not_native()
#: The extension, or what has the same face in pure Python; or neither, in a sub-interpreter with a GIL of its own.
absent = missing is not None and 'loading in subinterpreters' in missing
_runtime: Any = importlib.import_module(
    __package__ + ('._runtime' if missing is None else '._absent' if absent else '.fallback')
)


def forbidden() -> bool:
    """True where the operator switched everything off: PROFILOMATIC_ENABLED=0."""
    return os.environ.get('PROFILOMATIC_ENABLED', '').strip().lower() in ('0', 'false', 'no', 'off')


def _aggregator() -> Optional[str]:
    """Path of the aggregator that a worker may start, which says so if it cannot; None if it must not."""
    if os.environ.get('PROFILOMATIC_RUN') == '1':
        return None  # `profilomatic run` has started one and keeps it alive
    import shutil

    here = os.path.dirname(os.path.abspath(__file__))
    program = 'profilomatic-aggregator'
    named = os.environ.get('PROFILOMATIC_AGGREGATOR')
    beside = [os.path.join(here, up, 'bin', program) for up in ('../..', '../../../..')]
    for path in [named] if named else [*beside, shutil.which(program)]:
        if path and os.access(path, os.X_OK):
            return os.path.realpath(path)
    return named or program


class Switch:
    def __init__(self) -> None:
        self.settings = Settings(tell)
        self.destinations: List[Any] = []
        self.wanted = False  # profiling was asked for by the environment, not by a destination
        self.on = False
        self.native = missing is None
        self.reason: Optional[str] = missing if absent else None  # why profiling could not be switched on
        self.delivery: Optional[Delivery] = None
        self._attached_pid = 0  # the process in which _on_attach has run
        self._attaches_children = False  # with scope 'process', after each fork
        self._pool = ''  # where it attached to
        self._written: List[str] = []  # names of the request files that it wrote

    # ---- what the program asks for

    def configure(self, options: Mapping[str, Any]) -> None:
        self.settings.configure(options)
        if self.on:
            self._enable()
            self._write_requests()

    def add(self, destination: Any) -> None:
        if not callable(destination) and _request_of(destination) is None:
            raise TypeError("a destination is a callable or one of profilomatic's own, not %r" % (destination,))
        if destination not in self.destinations:
            self.destinations.append(destination)
        self.turn_on()
        if self.on:
            self._import_all()
        self._write_requests()

    def remove(self, destination: Any) -> None:
        if destination not in self.destinations:
            raise ValueError('%r was not added' % (destination,))
        if self.attached() or (self.on and not self.native):
            self.flush()
        self.destinations.remove(destination)
        self._write_requests()
        if not self.destinations and not self.wanted:
            self.turn_off()

    def turn_on(self) -> None:
        """Switch profiling on here and in every process forked from here. What goes wrong is told, never raised."""
        if self.on or forbidden():
            return
        if absent:
            tell('cannot profile: %s; the application runs on without it' % missing)
            return
        if not self.native and os.environ.get('PROFILOMATIC_IMPLEMENTATION') is None:
            tell('%s: profiling in pure Python, each process for itself' % missing)
        self._enable()

    def turn_off(self) -> None:
        if self.on:
            self.on = False
            _runtime.disable()

    # ---- facts

    def directory(self) -> str:
        return str(_runtime.directory_default())

    def attached(self) -> bool:
        return self.on and self._attached_pid == os.getpid()

    def callables(self) -> List[Callable[[Dict[str, Any]], object]]:
        """The destinations that are served in this process."""
        return [destination for destination in self.destinations if _request_of(destination) is None]

    def status(self) -> Dict[str, Any]:
        known: Dict[str, Any] = {
            'implementation': 'native' if self.native else 'python',
            'not_native': missing,
            'enabled': self.on,
            'reason': self.reason or ('PROFILOMATIC_ENABLED=0' if forbidden() else None),
            'source': self.settings['source_name'],
            'settings': self.settings.describe(),
            'destinations': [repr(destination) for destination in self.destinations],
            'aggregator': None,
            'pools': [],
            'process': {},
            'hook_failures': dict(failures),
        }
        if self.delivery is not None:
            known['delivery'] = self.delivery.status()
        known['process'] = _runtime.status()
        if self.native:
            from . import control

            known['directory'] = self.directory()
            known.update(control.ask(self.directory(), {'verb': 'status'}) or {})
        return known

    # ---- how it is done

    def _enable(self) -> None:
        whole = self.settings['scope'] == 'process'
        self._import_all()
        try:
            _runtime.enable(self.directory(), self.settings['source_name'], _aggregator(), self._on_attach, whole)
        except Exception as error:
            if self.on:  # the former settings stay in force
                tell(str(error))
                return
            self.reason = str(error)
            say = tell_tree if self.wanted else tell
            say('cannot profile: %s; the application runs on without it' % error)
            return
        from . import carry

        carry.install()
        self.on = True
        self.reason = None
        _runtime.set_noter(_trace.note)
        if whole:
            self._attach_here_and_in_children()

    def _import_all(self) -> None:
        """Import now what `_on_attach` will need: a process that was forked while another thread imported it would wait
        for that thread's import lock for ever."""
        import hashlib  # noqa: F401
        import json  # noqa: F401

        if self.callables():
            from . import delivery  # noqa: F401

    def _attach_here_and_in_children(self) -> None:
        """With scope 'process' there may never be an action to attach at. A child that Python does not know of (uWSGI's
        workers) attaches at its first action all the same."""
        _runtime.attach()
        if not self._attaches_children:
            self._attaches_children = True
            os.register_at_fork(after_in_child=self._attach_child)

    def _attach_child(self) -> None:
        try:
            if self.on and self.settings['scope'] == 'process':
                _runtime.attach()
        except Exception as error:
            tell('cannot profile process %d: %r' % (os.getpid(), error))

    def _on_attach(self) -> None:
        """Called by the native part when the first action of a process begins, and after later changes; the pool's
        folders exist by then."""
        try:
            if self._attached_pid != os.getpid():
                self._attached_pid = os.getpid()
                self._pool = str(_runtime.pool_path(self.directory(), self.settings['source_name']))
                self._written = []
            self._write_requests()
        except Exception as error:
            tell('cannot ask the aggregator for what was configured: %r' % error)

    def _write_requests(self) -> None:
        """Make the pool's request files say what this process asks for now, once the process is attached."""
        if not self.native:
            _runtime.serve(self.settings, self.destinations)
            return
        if not self.attached():
            return
        asked = [self.settings.limits()]
        asked += [request for request in map(_request_of, self.destinations) if request is not None]
        written = []
        for request in asked:
            try:
                written.append(requests.write(self._pool, request))
            except OSError as error:
                tell('cannot write a request to the aggregator: %s' % error)
        for name in set(self._written) - set(written):
            requests.remove(self._pool, name)
        self._written = written
        self._serve_callables()

    def _serve_callables(self) -> None:
        if self.delivery is None:
            if not self.callables():
                return
            from .delivery import Delivery

            self.delivery = Delivery(
                self.directory, self.callables, _runtime.set_pump, _runtime.only_ours_are_left, _runtime.spent
            )
        self.delivery.start_or_stop()

    def flush(self) -> None:
        """Have everything that was profiled so far handed over; at most 2 s."""
        if not self.native:
            _runtime.flush()
        elif self.delivery is not None and self.callables():
            self.delivery.flush()
        else:
            from . import control

            control.ask(self.directory(), {'verb': 'sync'}, 2.0)


def _request_of(destination: Any) -> Optional[Dict[str, Any]]:
    """The request by which the aggregator carries out `destination`; None if it is served in the process."""
    request = getattr(destination, 'profilomatic_request', None)
    return request() if callable(request) else None


switch = Switch()
