"""What may be configured: names, types and bounds, and where each value came from.

A value is looked for in this order: the program (``configure``), the environment (``PROFILOMATIC_MAX_OVERHEAD``
and so on), the config file (``PROFILOMATIC_CONFIG``, else ``profilomatic.toml`` in the current directory), the default.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Iterable, Literal, Mapping, Optional, Tuple, TypedDict, Union

PREFIX = 'PROFILOMATIC_'
SOURCE_BYTES = 64  # longest source name the runtime directory can hold
OVERHEAD_LEAST, OVERHEAD_MOST = 0.0005, 0.5  # as the aggregator has it (aggregator/budget.h)
TYPES_MOST = 1000  # as the aggregator has room for (aggregator/merge.h)

_OTHER_VARIABLES = ('ENABLED', 'DIR', 'AGGREGATOR', 'CONFIG', 'IMPLEMENTATION', 'RUN', 'SPOOL', 'TOLD')


def _ratio(name: str, value: Any) -> float:
    """A fraction: 0.02, "0.02" or "2%"."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and value.strip().endswith('%'):
            number = float(value.strip()[:-1]) / 100
        else:
            number = float(value)
    except (TypeError, ValueError):
        raise ValueError('%s must be a fraction such as 0.02 or "2%%", not %r' % (name, value)) from None
    if not OVERHEAD_LEAST <= number <= OVERHEAD_MOST:
        raise ValueError('%s must be from 0.0005 (0.05%%) to 0.5 (50%%), not %r' % (name, value))
    return number


def _seconds(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError('%s must be a number of seconds, not %r' % (name, value)) from None
    if not 0.001 <= number <= 10:
        raise ValueError('%s must be between 0.001 and 10 seconds, not %r' % (name, value))
    return number


def _count(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError('%s must be a whole number, 0 for no cap, not %r' % (name, value)) from None
    if not 0 <= number < 2**31:
        raise ValueError('%s must be between 0 (no cap) and %d, not %r' % (name, 2**31 - 1, value))
    return number


def _types(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError('%s must be a whole number, not %r' % (name, value)) from None
    if not 1 <= number <= TYPES_MOST:
        raise ValueError('%s must be from 1 to %d, not %r' % (name, TYPES_MOST, value))
    return number


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ('1', 'true', 'yes', 'on'):
        return True
    if word in ('0', 'false', 'no', 'off', ''):
        return False
    raise ValueError('%s must be true or false, not %r' % (name, value))


def _one_of(*choices: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value in choices:
            return str(value)
        raise ValueError('%s must be one of %s, not %r' % (name, ', '.join(map(repr, choices)), value))

    return check


def _source(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or '\0' in value:
        raise ValueError('%s must be a non-empty string, not %r' % (name, value))
    if len(value.encode('utf-8', 'surrogateescape')) > SOURCE_BYTES:
        raise ValueError('%s must be at most %d bytes long, not %r' % (name, SOURCE_BYTES, value))
    return value


class Options(TypedDict, total=False):
    """What `configure` takes, for type checkers."""

    max_overhead: Union[float, str]
    time_granularity: float
    code_granularity: Literal['file', 'method', 'line']
    store_all_logs: bool
    max_actions_per_run: int
    max_action_types: int
    source_name: str
    scope: Literal['actions', 'process']


# name: (check, default). The default of source_name is the host's name, looked up when it is needed.
OPTIONS: Dict[str, Tuple[Callable[[str, Any], Any], Any]] = {
    'max_overhead': (_ratio, 0.02),
    'time_granularity': (_seconds, 0.01),
    'code_granularity': (_one_of('file', 'method', 'line'), 'line'),
    'store_all_logs': (_flag, False),
    'max_actions_per_run': (_count, 10),
    'max_action_types': (_types, 1000),
    'source_name': (_source, None),
    'scope': (_one_of('actions', 'process'), 'actions'),
}


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'x'?)``, or nothing where no choice is near."""
    import difflib

    found = difflib.get_close_matches(name.lower(), list(choices), 1, cutoff)
    return ' (did you mean %r?)' % found[0] if found else ''


def check(options: Mapping[str, Any]) -> Dict[str, Any]:
    """The options, checked and converted. TypeError for an unknown name, ValueError for a bad value."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError('profilomatic has no option %r%s' % (name, nearest(name, OPTIONS)))
    return {name: OPTIONS[name][0](name, value) for name, value in options.items()}


class Settings:
    """The layers of settings of this process. Reading the environment or a file never raises: what is wrong there
    is told once, through `tell`, and left out, because an operator's slip must not stop the application."""

    def __init__(self, tell: Callable[[str], None], environ: Optional[Mapping[str, str]] = None) -> None:
        self._tell = tell
        self._environ = os.environ if environ is None else environ
        self.code: Dict[str, Any] = {}
        self.environment: Dict[str, Any] = {}
        self.file: Dict[str, Any] = {}
        self._read = False

    def configure(self, options: Mapping[str, Any]) -> None:
        self.code.update(check(options))

    def _layers(self) -> Tuple[Tuple[str, Dict[str, Any]], ...]:
        if not self._read:
            self._read = True
            self.environment = self._from_environment()
            self.file = self._from_file()
        return (('code', self.code), ('environment', self.environment), ('file', self.file))

    def origin(self, name: str) -> str:
        """Where the value in force comes from: 'code', 'environment', 'file' or 'default'."""
        for origin, layer in self._layers():
            if name in layer:
                return origin
        return 'default'

    def __getitem__(self, name: str) -> Any:
        for _, layer in self._layers():
            if name in layer:
                return layer[name]
        return _host_name() if name == 'source_name' else OPTIONS[name][1]

    def limits(self) -> Dict[str, Any]:
        """The request that tells the aggregator what this process asks for."""
        request = {name: self[name] for name in OPTIONS if name != 'source_name'}
        request['kind'] = 'limits'
        return request

    def describe(self) -> Dict[str, Any]:
        return {name: {'value': self[name], 'from': self.origin(name)} for name in OPTIONS}

    def _accept(self, options: Mapping[str, Any], where: str) -> Dict[str, Any]:
        accepted = {}
        for name, value in options.items():
            try:
                accepted.update(check({name: value}))
            except (TypeError, ValueError) as error:
                self._tell('%s: %s; left out' % (where, error))
        return accepted

    def _from_environment(self) -> Dict[str, Any]:
        found = {}
        for variable, value in self._environ.items():
            if not variable.startswith(PREFIX) or variable[len(PREFIX) :] in _OTHER_VARIABLES:
                continue
            name = variable[len(PREFIX) :].lower()
            if name in OPTIONS:
                found.update(self._accept({name: value}, variable))
            else:
                # Other parts have variables of their own, so only what looks like a slip is told.
                hint = nearest(name, OPTIONS, 0.8)
                if hint:
                    self._tell('%s names no option%s' % (variable, hint))
        return found

    def _from_file(self) -> Dict[str, Any]:
        named = self._environ.get(PREFIX + 'CONFIG')
        path = named or 'profilomatic.toml'
        if not named and not os.path.isfile(path):
            return {}
        try:
            import tomllib  # type: ignore[import-not-found,unused-ignore]

            with open(path, 'rb') as file:
                table = tomllib.load(file)
        except ImportError:
            self._tell('%s: config files need Python 3.11 or newer; it is not read' % path)
            return {}
        except (OSError, ValueError) as error:
            self._tell('cannot read config file %s: %s' % (path, error))
            return {}
        if os.path.basename(path) == 'pyproject.toml':
            table = table.get('tool', {}).get('profilomatic', {})
        return self._accept(table, path)


def _host_name() -> str:
    name = os.uname().nodename or 'localhost'
    return name.encode('utf-8', 'surrogateescape')[:SOURCE_BYTES].decode('utf-8', 'ignore')
