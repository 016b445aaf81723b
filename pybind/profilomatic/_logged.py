"""A logged message as JSON text of bounded length, without calling any code of the application."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import uuid
from typing import Any, Dict

_FIRST = (
    'task_uuid',
    'task_level',
    'timestamp',
    'action_type',
    'message_type',
    'action_status',
    'exception',
    'reason',
)
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, pathlib.PurePath, uuid.UUID)
_DEEPEST = 8
_LONGEST_VALUE = 200  # of a message that is cut, in characters


def text_of(message: Dict[str, Any], longest: int) -> str:
    """`message` as JSON, in ASCII. What JSON has no form for is told by its type. If it is longer than `longest`
    bytes, long values are cut or left out, and ``"truncated": true`` says so."""
    text = json.dumps(_plain(message, -1), separators=(',', ':'))
    return text if len(text) <= longest else _cut(message, longest)


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is str:
        return value
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if depth < _DEEPEST:
        if kind is dict:
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            return [_plain(item, depth + 1) for item in value]
    if isinstance(value, _AS_TEXT) and kind.__module__ in ('datetime', 'decimal', 'pathlib', 'pathlib._local', 'uuid'):
        return str(value)
    # Subclasses of the plain types, as themselves: their own methods are the application's code.
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain.__repr__(value) if plain is not str else str.__str__(value)
    return _name(value)


def _key(key: Any) -> str:
    return str(key) if type(key) in (str, int) else _name(key)


def _name(value: Any) -> str:
    return '<%s.%s>' % (type(value).__module__, type(value).__qualname__)


def _cut(message: Dict[str, Any], longest: int) -> str:
    kept: Dict[str, Any] = {'truncated': True}
    length = len('{"truncated":true}')
    plain = {_key(key): value for key, value in message.items()}
    for key in [key for key in _FIRST if key in plain] + [key for key in plain if key not in _FIRST]:
        value = _plain(plain[key], 0)
        text = json.dumps(value, separators=(',', ':'))
        if len(text) > _LONGEST_VALUE:
            if not isinstance(value, str):
                continue
            value = value[: _LONGEST_VALUE // 6] + '...'  # a character may take six bytes
            text = json.dumps(value)
        more = len(json.dumps(key)) + len(text) + 2
        if length + more > longest:
            continue
        kept[key] = value
        length += more
    return json.dumps(kept, separators=(',', ':'))
