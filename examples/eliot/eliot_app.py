"""A WSGI application that logs with Eliot, and profiles its Eliot actions.

    python eliot_app.py [PORT]

Eliot's log goes to app_log.log, the call graphs of profiled actions to app_prof.log, both in the current directory.
"""

import hashlib
import sys
import wsgiref.simple_server

import eliot
import profilomatic
import profilomatic.eliot

profilomatic.eliot.patch()

# Output is set up in the same way as Eliot's, with Eliot's own destinations if you like.
eliot.add_destinations(eliot.FileDestination(file=open('app_log.log', 'w')))
profilomatic.add_destination(eliot.FileDestination(file=open('app_prof.log', 'w')))

# All of these are optional.
profilomatic.configure(
    max_overhead=0.02,  # of the CPU that the application uses, over all its workers
    time_granularity=0.01,  # a sample each 10 ms
    code_granularity='method',  # or 'file', or 'line'
    store_all_logs=True,  # all that is logged inside an action goes into its call graph
    max_actions_per_run=10,  # newly profiled actions a second, over all workers
)


def digest(rounds):
    value = b'hello'
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()


def app(environ, start_response):
    with eliot.start_action(event='app:hello-world', path=environ['PATH_INFO']):
        first = digest(20_000)
        eliot.log_message('app:half-way', digest=first)
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [digest(20_000).encode()]


if __name__ == '__main__':
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    wsgiref.simple_server.make_server('127.0.0.1', port, app).serve_forever()
