"""As much of JSON Schema as docs/messages.md uses; a word that is not known here is an error, not passed over."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / 'docs'
_TYPES = {'object': dict, 'array': list, 'string': str, 'integer': int, 'number': (int, float)}


def schemas(page):
    """The fenced schemas of a page of docs/, by name."""
    import json

    text = (DOCS / page).read_text()
    return {name: json.loads(body) for name, body in re.findall(r'```json schema (\w+)\n(.*?)```', text, re.S)}


def check(value, schema, root=None, at='$'):
    """AssertionError that says where `value` is not what `schema` says."""
    root = schema if root is None else root
    for word, wanted in schema.items():
        if word == '$ref':
            assert wanted.startswith('#/$defs/')
            check(value, root['$defs'][wanted[len('#/$defs/') :]], root, at)
        elif word == 'type':
            assert isinstance(value, _TYPES[wanted]) and not isinstance(value, bool), f'{at}: {value!r} is no {wanted}'
        elif word == 'const':
            assert value == wanted, f'{at}: {value!r} is not {wanted!r}'
        elif word == 'enum':
            assert value in wanted, f'{at}: {value!r} is none of {wanted}'
        elif word == 'pattern':
            assert re.search(wanted, value), f'{at}: {value!r} does not match {wanted}'
        elif word == 'minimum':
            assert value >= wanted, f'{at}: {value!r} is below {wanted}'
        elif word == 'required':
            assert not set(wanted) - set(value), f'{at}: {sorted(set(wanted) - set(value))} missing'
        elif word == 'items':
            for i, item in enumerate(value):
                check(item, wanted, root, f'{at}[{i}]')
        elif word == 'properties':
            for name, below in wanted.items():
                if name in value:
                    check(value[name], below, root, f'{at}.{name}')
        elif word == 'additionalProperties':
            for name in set(value) - set(schema.get('properties', {})):
                check(value[name], wanted, root, f'{at}.{name}')
        else:
            assert word == '$defs', f'{word} is not known here'
