"""One form of one kind, in a process of its own: see __main__.py. Prints what it adds, a figure a pair of blocks."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time


def begin_profiling():
    """Ours, with nearly nothing admitted: one action a second."""
    directory = tempfile.mkdtemp(prefix='pom-bench-', dir='/dev/shm')
    os.environ['PROFILOMATIC_DIR'] = directory
    import profilomatic

    profilomatic.configure(max_actions_per_run=1, max_overhead=0.5)
    profilomatic.add_destination(lambda message: None)
    with profilomatic.action('first'):
        pass
    time.sleep(1)  # the aggregator is there by now
    return profilomatic


def otel_provider(sampled):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    return TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)


def ddtrace_rate(sampled):
    os.environ['DD_TRACE_SAMPLING_RULES'] = json.dumps([{'sample_rate': 1.0 if sampled else 0.0}])
    import logging

    logging.getLogger('ddtrace').setLevel(logging.CRITICAL)  # that there is no agent


# ---- WSGI


def wsgi_app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello']


def wsgi_python(app, counts):
    def middleware(environ, start_response):
        start = time.perf_counter()

        def respond(status, headers, exc_info=None):
            return start_response(status, headers + [('X-Task-UUID', '0')], exc_info)

        try:
            return app(environ, respond)
        finally:
            path = environ['PATH_INFO']
            count, total = counts.get(path, (0, 0.0))
            counts[path] = (count + 1, total + time.perf_counter() - start)

    return middleware


def wsgi_hooked(form):
    if form == 'profilomatic':
        return begin_profiling().wsgi.wrap(wsgi_app)
    if form == 'python':
        return wsgi_python(wsgi_app, {})
    sampled = not form.endswith('unsampled')
    if form.startswith('otel'):
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(wsgi_app, tracer_provider=otel_provider(sampled))
    ddtrace_rate(sampled)
    from ddtrace.contrib.wsgi import DDWSGIMiddleware

    return DDWSGIMiddleware(wsgi_app)


def serve_wsgi(app, requests):
    base = {
        'PATH_INFO': '/item/1234',
        'SCRIPT_NAME': '',
        'REQUEST_METHOD': 'GET',
        'SERVER_NAME': 'localhost',
        'SERVER_PORT': '80',
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'wsgi.url_scheme': 'http',
        'QUERY_STRING': '',
        'HTTP_HOST': 'localhost',
    }

    def start_response(status, headers, exc_info=None):
        return None

    start = time.thread_time()
    for _ in range(requests):
        body = app(dict(base), start_response)
        for _ in body:
            pass
        close = getattr(body, 'close', None)
        if close is not None:
            close()
    return (time.thread_time() - start) / requests


# ---- ASGI


async def asgi_app(scope, receive, send):
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})
    await send({'type': 'http.response.body', 'body': b'hello'})


def asgi_python(app, counts):
    async def middleware(scope, receive, send):
        start = time.perf_counter()

        async def respond(message):
            if message['type'] == 'http.response.start':
                message = dict(message, headers=message['headers'] + [(b'x-task-uuid', b'0')])
            await send(message)

        try:
            await app(scope, receive, respond)
        finally:
            path = scope['path']
            count, total = counts.get(path, (0, 0.0))
            counts[path] = (count + 1, total + time.perf_counter() - start)

    return middleware


def asgi_hooked(form):
    if form == 'profilomatic':
        return begin_profiling().asgi.wrap(asgi_app)
    if form == 'python':
        return asgi_python(asgi_app, {})
    sampled = not form.endswith('unsampled')
    if form.startswith('otel'):
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(asgi_app, tracer_provider=otel_provider(sampled))
    ddtrace_rate(sampled)
    from ddtrace.contrib.asgi import TraceMiddleware

    return TraceMiddleware(asgi_app)


def serve_asgi(app, requests):
    headers = [(b'host', b'localhost'), (b'user-agent', b'bench'), (b'accept', b'*/*'), (b'accept-encoding', b'gzip')]
    base = {
        'type': 'http',
        'asgi': {'version': '3.0', 'spec_version': '2.3'},
        'http_version': '1.1',
        'server': ('127.0.0.1', 80),
        'client': ('127.0.0.1', 4000),
        'scheme': 'http',
        'method': 'GET',
        'root_path': '',
        'path': '/item/1234',
        'raw_path': b'/item/1234',
        'query_string': b'',
    }

    async def receive():
        return {'type': 'http.request', 'body': b''}

    async def send(message):
        return None

    async def run():
        start = time.thread_time()
        for _ in range(requests):
            await app(dict(base, headers=list(headers)), receive, send)
        return (time.thread_time() - start) / requests

    return asyncio.run(run())


# ---- Eliot


def serve_eliot(hooked, requests):
    from eliot import start_action

    hooked(True)
    start = time.thread_time()
    for _ in range(requests):
        with start_action(action_type='shop:charge'):
            pass
    used = time.thread_time() - start
    hooked(False)
    return used / requests


def eliot_hooked(form):
    import eliot

    eliot.add_destinations(lambda message: None)
    if form == 'profilomatic':
        import importlib

        begin_profiling()
        ours = importlib.import_module('profilomatic.eliot')
        return lambda on: ours.patch() if on else ours.unpatch()
    started = {}

    def destination(message):
        key = (message['task_uuid'], tuple(message['task_level'][:-1]))
        if message.get('action_status') == 'started':
            started[key] = time.perf_counter()
        else:
            started.pop(key, None)

    def switch(on):
        eliot.add_destinations(destination) if on else eliot.remove_destination(destination)

    return switch


def main():
    kind, form, blocks, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    bare, hooked, serve = {
        'wsgi': (lambda: wsgi_app, wsgi_hooked, serve_wsgi),
        'asgi': (lambda: asgi_app, asgi_hooked, serve_asgi),
        'eliot': (lambda: lambda on: None, eliot_hooked, serve_eliot),
    }[kind]
    bare, hooked = bare(), hooked(form)
    added = []
    with contextlib.suppress(BrokenPipeError):
        for app in (bare, hooked):
            serve(app, requests // 4)
        for _ in range(blocks):
            without = serve(bare, requests)
            added.append((serve(hooked, requests) - without) * 1e6)
        print(json.dumps(added), flush=True)
    os._exit(0)  # tracers would wait for their agent


if __name__ == '__main__':
    main()
