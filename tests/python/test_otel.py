"""OpenTelemetry: the span that is active goes with an action, and root spans are actions where that is asked for."""

import time

import profilomatic
import pytest
from _support import arrived
from test_frameworks import environ, serve

pytest.importorskip('opentelemetry.sdk')
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from profilomatic import _guard, _trace
from profilomatic.otel import ActionSpanProcessor

pytestmark = pytest.mark.usefixtures('messages')

provider = TracerProvider()
tracer = provider.get_tracer('tests')


def ids(span):
    context = span.get_span_context()
    return {'trace_id': '%032x' % context.trace_id, 'span_id': '%016x' % context.span_id}


def told(message):
    return {key: message[key] for key in ('trace_id', 'span_id') if key in message}


def begins(node):
    """The messages of begins in a call graph, by action type."""
    found = {}
    for child in node['children']:
        if child.get('message', {}).get('action_status') == 'started':
            found[child['message']['action_type']] = child['message']
        found.update(begins(child))
    return found


def sampled(seconds=0.1):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_the_active_span_goes_with_an_action_and_with_those_inside_it(messages):
    with tracer.start_as_current_span('outer') as outer, profilomatic.action('root') as action:
        sampled()
        with tracer.start_as_current_span('inner') as inner, profilomatic.action('nested'):
            sampled()
    message = arrived(messages, action.task_uuid)
    assert told(message) == ids(outer)
    inside = begins(message)
    if inside:  # the implementation in pure Python reads no stacks everywhere
        assert told(inside['root']) == ids(outer) and told(inside['nested']) == ids(inner)


def test_a_request_has_the_span_around_it(messages):
    def app(env, start_response):
        sampled()
        start_response('200 OK', [])
        return [b'x']

    wrapped = profilomatic.wsgi.wrap(app)
    with tracer.start_as_current_span('server') as span:
        _, headers, _ = serve(wrapped, environ('/traced'))
    assert told(arrived(messages, dict(headers)['X-Task-UUID'])) == ids(span)


def test_without_a_span_nothing_is_said_of_one(messages):
    with profilomatic.action('alone') as action:
        sampled()
    assert told(arrived(messages, action.task_uuid)) == {}


def test_fields_of_an_action_go_with_its_begin(messages):
    odd = object()
    with profilomatic.action('report:build', customer=7, action_type='mine', odd=odd) as action:
        sampled()
    inside = begins(arrived(messages, action.task_uuid))
    if inside:
        assert inside['report:build']['customer'] == 7
        assert inside['report:build']['odd'] == '<builtins.object>'

    @profilomatic.action('fields', colour='red')
    def decorated():
        sampled()
        return profilomatic.current_task_uuid()

    inside = begins(arrived(messages, decorated()))
    if inside:
        assert inside['fields']['colour'] == 'red'


# ---- root spans as actions


@pytest.fixture
def root_spans():
    own = TracerProvider()
    processor = ActionSpanProcessor()
    own.add_span_processor(processor)
    yield own.get_tracer('roots')
    own.shutdown()


def uuid_of(span):
    digits = ids(span)['trace_id']
    return '-'.join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def test_a_root_span_is_an_action_of_its_last_name_and_its_trace(messages, root_spans):
    with root_spans.start_as_current_span('GET') as span:
        assert profilomatic.current_task_uuid() == uuid_of(span)
        span.update_name('GET /item/{n}')
        with root_spans.start_as_current_span('inner'):
            assert profilomatic.current_task_uuid() == uuid_of(span)
            sampled()
    assert profilomatic.current_task_uuid() is None
    message = arrived(messages, uuid_of(span))
    assert (message['action_type'], message['action_status']) == ('GET /item/{n}', 'succeeded')
    assert told(message) == ids(span)
    assert 'inner' not in begins(message)


def test_a_span_whose_parent_is_elsewhere_is_a_root_here(messages, root_spans):
    remote = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    with root_spans.start_as_current_span('consumer', context=context) as span:
        pass
    assert uuid_of(span) == '0af76519-16cd-43dd-8448-eb211c80319c'
    assert arrived(messages, uuid_of(span))['action_type'] == 'consumer'


def test_a_failed_span_is_an_error(messages, root_spans):
    with pytest.raises(KeyError):
        with root_spans.start_as_current_span('fails') as span:
            raise KeyError
    assert arrived(messages, uuid_of(span))['action_status'] == 'failed'


def test_a_span_may_end_anywhere_and_twice(messages, root_spans):
    import threading

    span = root_spans.start_span('elsewhere')
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()
    span.end()
    assert arrived(messages, uuid_of(span))['action_type'] == 'elsewhere'
    assert profilomatic.current_task_uuid() is None


def test_the_provider_in_use_is_followed_until_it_is_left(monkeypatch):
    import profilomatic.otel

    own = TracerProvider()
    monkeypatch.setattr(trace, 'get_tracer_provider', lambda: own)
    profilomatic.otel.patch()
    profilomatic.otel.patch()
    with own.get_tracer('x').start_as_current_span('one') as span:
        assert profilomatic.current_task_uuid() == uuid_of(span)
    profilomatic.otel.unpatch()
    profilomatic.otel.unpatch()
    with own.get_tracer('x').start_as_current_span('two'):
        assert profilomatic.current_task_uuid() is None
    monkeypatch.setattr(trace, 'get_tracer_provider', lambda: object())
    with pytest.raises(RuntimeError, match='SDK'):
        profilomatic.otel.patch()


def test_a_bug_in_a_hook_does_not_reach_the_span(monkeypatch, root_spans, capfd):
    class Broken:
        def __getattr__(self, name):
            raise SystemError('planted')

    monkeypatch.setattr('profilomatic.otel._runtime', Broken())
    monkeypatch.setattr(_guard, 'failures', {})
    for _ in range(2):
        with root_spans.start_as_current_span('x'):
            pass
    monkeypatch.setattr(trace, 'get_current_span', None)
    with profilomatic.action('x'):
        pass
    monkeypatch.setattr(trace, 'get_current_span', lambda: None)
    _trace.note(None)
    assert _guard.failures == {'the begin of a span': 2, "reading OpenTelemetry's current span": 1} or (
        _guard.failures.get('the begin of a span') == 2
    )
    assert capfd.readouterr().err.count('planted') == 1
