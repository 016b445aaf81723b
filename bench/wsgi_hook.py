"""What the WSGI wrapper adds to a request that is not admitted for profiling.

    PYTHONPATH=build/python python3 bench/wsgi_hook.py [--requests 100000]

Three forms of one tiny application are called in turn, in blocks, in one process: bare, wrapped, and wrapped in the
smallest useful middleware written in Python (a clock before and after, a count, a header). CPU time of the thread;
medians of the blocks. Bar: the wrapper adds at most 5 us. Exit status 1 if it is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

directory = tempfile.mkdtemp(prefix='pom-bench-', dir='/dev/shm')
os.environ['PROFILOMATIC_DIR'] = directory

import profilomatic  # noqa: E402  (the directory must be named first)


def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello']


counts = {}


def middleware(environ, start_response):
    start = time.perf_counter()

    def respond(status, headers, exc_info=None):
        return start_response(status, headers + [('X-Task-UUID', '0')], exc_info)

    try:
        return application(environ, respond)
    finally:
        path = environ['PATH_INFO']
        count, total = counts.get(path, (0, 0.0))
        counts[path] = (count + 1, total + time.perf_counter() - start)


def start_response(status, headers, exc_info=None):
    return None


def serve(app, requests):
    """CPU seconds a request, as a server would run it: call, iterate, close."""
    base = {'PATH_INFO': '/item/1234', 'SCRIPT_NAME': '', 'REQUEST_METHOD': 'GET', 'SERVER_NAME': 'localhost'}
    start = time.thread_time()
    for _ in range(requests):
        body = app(dict(base), start_response)
        for _ in body:
            pass
        close = getattr(body, 'close', None)
        if close is not None:
            close()
    return (time.thread_time() - start) / requests


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--requests', type=int, default=100000)
    options = parser.parse_args()
    profilomatic.configure(max_actions_per_run=1, max_overhead=0.5)
    profilomatic.add_destination(lambda message: None)
    wrapped = profilomatic.wsgi.wrap(application)
    blocks = 20
    for app in (application, wrapped, middleware):
        serve(app, 2000)
    time.sleep(1.0)  # the aggregator is there by now
    times = {'bare': [], 'wrapped': [], 'python middleware': []}
    for _ in range(blocks):
        times['bare'].append(serve(application, options.requests // blocks))
        times['wrapped'].append(serve(wrapped, options.requests // blocks))
        times['python middleware'].append(serve(middleware, options.requests // blocks))
    bare, hooked, python = (statistics.median(times[k]) * 1e6 for k in ('bare', 'wrapped', 'python middleware'))
    status = profilomatic._runtime.status()
    added = hooked - bare
    print(f'bare {bare:.2f} us, wrapped {hooked:.2f} us, Python middleware {python:.2f} us a request')
    print(
        f'the wrapper adds {added:.2f} us ({added / (python - bare):.2f} of what the Python middleware adds); '
        f'bar 5 us: {"missed" if added > 5 else "met"}'
    )
    print(
        f'own estimate of hook CPU: {status["hook_cpu"]:.3f} s in {status["hooks"]} hooks, '
        f'{status["admitted"]} actions admitted, denied {status["denied"]}'
    )
    return 1 if added > 5 else 0


if __name__ == '__main__':
    sys.exit(main())
