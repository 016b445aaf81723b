"""uWSGI: its application is wrapped between the end of its module's code and the moment uWSGI takes it from there.

uWSGI imports the module from C and then looks up a name in it, so the names come from its options
(``uwsgi.opt``). A file (``--wsgi-file``) does not go through the import system: uWSGI compiles it and has the
interpreter run the code.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import wsgi
from ._tell import tell

DEFAULT_CALLABLE = 'application'


def _values(options: Dict[Any, Any], *names: str) -> List[str]:
    """All values that were given for these options, as text. uWSGI has bytes, True, or a list of these."""
    found: List[str] = []
    for name in names:
        value = options.get(name, options.get(name.encode()))
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bytes):
                found.append(item.decode('utf-8', 'surrogateescape'))
            elif isinstance(item, str):
                found.append(item)
    return found


def applications(options: Dict[Any, Any]) -> Tuple[Dict[str, List[str]], str]:
    """Which callables uWSGI takes from which module, and which one where it is not said."""
    default = (_values(options, 'callable') or [DEFAULT_CALLABLE])[-1]
    specs = _values(options, 'module', 'wsgi')
    mounts = _values(options, 'mount') + _mounts_of_command_line()
    specs += [mount.partition('=')[2] for mount in mounts if '=' in mount]
    found: Dict[str, List[str]] = {}
    for spec in specs:
        module, _, name = spec.partition(':')
        names = found.setdefault(module, [])
        if (name or default) not in names:
            names.append(name or default)
    return found, default


def _mounts_of_command_line() -> List[str]:
    """Of an option that is given more than once uWSGI tells the last value only."""
    try:
        with open('/proc/self/cmdline', 'rb') as file:
            words = [word.decode('utf-8', 'surrogateescape') for word in file.read().split(b'\0')]
    except OSError:
        return []
    found = [word[len('--mount=') :] for word in words if word.startswith('--mount=')]
    return found + [words[i + 1] for i in range(len(words) - 1) if words[i] == '--mount']


def _options() -> Optional[Dict[Any, Any]]:
    options = getattr(sys.modules.get('uwsgi'), 'opt', None)
    return options if isinstance(options, dict) else None


def patch_for(name: str) -> Optional[Callable[[Any], None]]:
    """What to do after module `name` was imported, if uWSGI will take an application from it."""
    options = _options()
    names = None if options is None else applications(options)[0].get(name)
    if not names:
        return None
    wanted = names
    return lambda module: wrap_names(vars(module), wanted)


def wrap_names(namespace: Dict[str, Any], names: List[str]) -> None:
    """Wrap the applications of a module where uWSGI will look for them. Names that are missing are uWSGI's to
    report."""
    for holder in (vars(sys.modules['uwsgi']).get('applications'), namespace.get('applications')):
        if isinstance(holder, dict):  # mount point (bytes) -> callable
            for mount, app in holder.items():
                if callable(app):
                    holder[mount] = wsgi.wrap(app)
    for name in names:
        factory = name.endswith('()')
        name = name[:-2] if factory else name
        app = namespace.get(name)
        if callable(app):
            namespace[name] = _wrap_factory(app) if factory else wsgi.wrap(app)


def _wrap_factory(factory: Callable[..., Any]) -> Callable[..., Any]:
    import functools

    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wsgi.wrap(factory(*args, **kwargs))

    return wrapped


def watch_files() -> None:
    """Notice when uWSGI runs the code of an application's file.

    Just before the interpreter runs such code (PyImport_ExecCodeModule) it calls importlib's `_fix_up_module`
    with the module's namespace, and nothing else calls that. One profile event later the code object is known;
    uWSGI drops its only reference to it right after the code has run and before it looks for the callable, so a
    weak reference tells when.
    """
    external: Any = sys.modules.get('_frozen_importlib_external')
    original = getattr(external, '_fix_up_module', None)
    if original is None or hasattr(original, '__profilomatic__'):
        return

    def fix_up(namespace: Dict[str, Any], name: str, *rest: Any) -> Any:
        result = original(namespace, name, *rest)
        try:
            options = _options()
            if options is not None and name.startswith(('uwsgi_file_', 'uwsgi_eval_config')):
                if not rest or rest[0] not in _values(options, 'python-raw'):
                    _wrap_after_code(namespace, applications(options)[1])
        except Exception as error:
            tell('the application of %s is not profiled: %r' % (name, error))
        return result

    fix_up.__profilomatic__ = True  # type: ignore[attr-defined]
    external._fix_up_module = fix_up


_watched: List[Any] = []  # weak references, kept until they have fired


def _wrap_after_code(namespace: Dict[str, Any], callable_name: str) -> None:
    previous = sys.getprofile()

    def wrap(reference: Any) -> None:
        _watched.remove(reference)
        try:
            wrap_names(namespace, [callable_name])
        except Exception as error:
            tell('the application %s is not profiled: %r' % (callable_name, error))

    def first_call(frame: Any, event: str, argument: Any) -> None:
        if event == 'call' and frame.f_globals is namespace:
            sys.setprofile(previous)
            _watched.append(weakref.ref(frame.f_code, wrap))

    sys.setprofile(first_call)
