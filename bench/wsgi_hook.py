"""What the WSGI wrapper adds to a request that is not admitted for profiling.

    PYTHONPATH=build/python python3 bench/wsgi_hook.py [--requests 100000]

Three forms of one tiny application are called in turn, in blocks, in one process: bare, wrapped, and wrapped in the
smallest useful middleware written in Python (a clock before and after, a count, a header). CPU time of the thread;
medians of the blocks. Bar: the wrapper adds at most 5 us. Exit status 1 if it is missed.
"""

import argparse
import statistics
import sys

from hooks.form import begin_profiling, serve_wsgi, wsgi_app, wsgi_python

BLOCKS = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--requests', type=int, default=100000)
    options = parser.parse_args()
    profilomatic = begin_profiling()
    forms = {
        'bare': wsgi_app,
        'wrapped': profilomatic.wsgi.wrap(wsgi_app),
        'python middleware': wsgi_python(wsgi_app, {}),
    }
    for app in forms.values():
        serve_wsgi(app, 2000)
    times = {name: [] for name in forms}
    before = profilomatic._runtime.status()
    for _ in range(BLOCKS):
        for name, app in forms.items():
            times[name].append(serve_wsgi(app, options.requests // BLOCKS))
    bare, hooked, python = (statistics.median(times[name]) * 1e6 for name in forms)
    status = profilomatic._runtime.status()
    added = hooked - bare
    print(f'bare {bare:.2f} us, wrapped {hooked:.2f} us, Python middleware {python:.2f} us a request')
    print(
        f'the wrapper adds {added:.2f} us ({added / (python - bare):.2f} of what the Python middleware adds); '
        f'bar 5 us: {"missed" if added > 5 else "met"}'
    )
    requests = options.requests // BLOCKS * BLOCKS
    told, hooks = ((status[name] - before[name]) / requests for name in ('hook_cpu', 'hooks'))
    print(
        f'hooks say that they take {told * 1e6:.2f} us a request, {told * 1e6 / added:.2f} of that; {hooks:.1f} hooks, '
        f'{status["admitted"]} actions admitted, denied {status["denied"]}'
    )
    return 1 if added > 5 else 0


if __name__ == '__main__':
    sys.exit(main())
