"""What a RestDestination posts is what the analysis server of the original profiler takes.

That server is in no package registry, so a receiver here asks of a batch what its code asks of one: lines that are each
a JSON object, sent without an encoding; of an object, what its key is made of and what it indexes and adds up."""

import contextlib
import datetime
import http.server
import json
import threading

import pytest
from _support import NATIVE, aggregator, run

pytest.importorskip('eliot')

#: LMDB's longest key, and longest value under a key that has many: so long may be what is indexed.
INDEXED_BYTES = 511


def attributes(item, path=()):
    """Every plain value with the names that lead to it; times and levels are not indexed."""
    if isinstance(item, dict):
        for name, value in item.items():
            if name in ('children', 'message'):
                yield from attributes(value, path)
            elif name != 'task_level' and not name.startswith('time') and not name.endswith('time'):
                yield from attributes(value, (*path, name))
    elif isinstance(item, list):
        for value in item:
            yield from attributes(value, path)
    else:
        yield '.'.join(path) or 'message', str(item) or '<empty>'


def key_of(item):
    start = datetime.datetime.fromisoformat(item['start_time'].replace('Z', '+00:00'))
    assert start.tzinfo is not None
    assert isinstance(item['task_uuid'], str) and isinstance(item['source'], str)
    return '~'.join([start.isoformat(), item['task_uuid'], item['source'], str(item['thread'])])


def add_up(into, value):
    """As it combines call graphs: every node has its times, every one but the root its instruction."""
    if value['time'] == 0:
        return
    into['time'] += value['time']
    into['self_time'] += value['self_time']
    assert value['start_time'] <= value['end_time'], 'as text'
    for child in value.get('children', ()):
        below = into['children'].setdefault(child['instruction'], {'time': 0.0, 'self_time': 0.0, 'children': {}})
        add_up(below, child)


def insert(body, headers):
    """The items of a batch, by key. Raises whatever is wrong with it."""
    assert 'content-encoding' not in headers and int(headers['content-length']) == len(body)
    found = {}
    for line in body.splitlines(keepends=True):
        item = json.loads(line.decode('utf-8'))
        key = key_of(item)
        assert 0 < len(key.encode()) <= INDEXED_BYTES
        for name, value in attributes(item):
            assert len(('%s=%s' % (name, value)).encode()) <= INDEXED_BYTES, (name, value)
        add_up({'time': 0.0, 'self_time': 0.0, 'children': {}}, item)
        assert key not in found or found[key] == item, 'the second would take the place of the first'
        found[key] = item
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        status = 200
        try:
            assert self.path == '/api/data', self.path
            self.server.items.update(insert(body, {k.lower(): v for k, v in self.headers.items()}))
        except Exception as error:
            self.server.refused.append((repr(error), body[:2000]))
            status = 400
        self.answer(status, {'message': 'Inserted OK'})

    def do_GET(self):
        """Which types of actions have come."""
        self.answer(200, sorted({item['action_type'] for item in list(self.server.items.values())}))

    def answer(self, status, what):
        answer = json.dumps(what).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as listening:
        listening.items, listening.refused = {}, []
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


APPLICATION = """
    import json, sys, threading, time, urllib.request
    import profilomatic, profilomatic.eliot
    from eliot import Action, log_message, start_action
    profilomatic.configure(
        source_name='original', max_overhead=0.5, max_actions_per_run=0, time_granularity=0.002, store_all_logs=True)
    profilomatic.add_destination(profilomatic.RestDestination('127.0.0.1', int(sys.argv[1])))
    profilomatic.eliot.patch()

    def spin():
        end = time.thread_time() + 0.02
        while time.thread_time() < end: pass

    @profilomatic.wsgi.wrap
    def application(environ, start_response):
        spin()
        start_response('200 OK', [])
        return [b'']

    def order(n):
        with start_action(action_type='shop:order', customer=n, note='', rebate=None, express=True) as action:
            spin()
            log_message('shop:priced', price=1.5, items=['a', {'b': 2}], name='é')
            handed_on = action.serialize_task_id()
            try:
                with start_action(action_type='shop:pay'):
                    raise KeyError('no money')
            except KeyError:
                pass
            with Action.continue_task(task_id=handed_on):
                spin()
        application({'PATH_INFO': '/order/%d' % n}, lambda *given: None)

    def came():
        with urllib.request.urlopen('http://127.0.0.1:%s/' % sys.argv[1], timeout=30) as answer:
            return set(json.load(answer))

    until = time.monotonic() + 50
    while not came() >= {'plain', 'shop:order', '/order/<int>'}:
        assert time.monotonic() < until
        with profilomatic.action('plain', fields={'deep': [1, None]}):
            spin()
        threads = [threading.Thread(target=order, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        time.sleep(0.2)
"""


def test_the_original_analysis_server_takes_what_is_posted(server, tmp_path):
    with aggregator(tmp_path) if NATIVE else contextlib.nullcontext():
        done = run(APPLICATION, tmp_path, profiled=False, arguments=[str(server.server_address[1])])
        assert (done.returncode, done.stderr) == (0, '')
    assert server.refused == []
    items = list(server.items.values())
    assert {'plain', 'shop:order', '/order/<int>'} <= {item['action_type'] for item in items}
    for item in items:
        whole = {'time': 0.0, 'self_time': 0.0, 'children': {}}
        add_up(whole, item)
        assert whole['time'] == item['time'] > 0
    # What a search there goes by: the kinds of actions, and what the application logged.
    found = {pair for item in items for pair in attributes(item)}
    assert {('action_type', 'shop:pay'), ('message_type', 'shop:priced'), ('name', 'é'), ('items.b', '2')} <= found
