"""The same application without Eliot: each request is an action.

python wsgi_app.py [PORT]
"""

import hashlib
import sys
import wsgiref.simple_server

import profilomatic
import profilomatic.wsgi

profilomatic.add_destination(profilomatic.file_destination(open('app_prof.log', 'w')))
# Or to a server that takes the messages:
#     profilomatic.add_destination(
#         profilomatic.RestDestination('monitoring.example', 443, ssl_context=ssl.create_default_context()))

profilomatic.configure(
    max_overhead=0.02,
    time_granularity=0.01,
    code_granularity='method',
    max_actions_per_run=10,
)


def digest(rounds):
    value = b'hello'
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()


@profilomatic.wsgi.wrap
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [digest(40_000).encode()]


if __name__ == '__main__':
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    wsgiref.simple_server.make_server('127.0.0.1', port, app).serve_forever()
