"""A WSGI application for greenlets, with nothing of the profiler in it:

    profilomatic run -- gunicorn -k gevent gevent_app:application

What a greenlet does that a request spawns belongs to the request.
"""

import hashlib

import gevent


def digest(rounds):
    value = b''
    for _ in range(rounds):
        value = hashlib.sha256(value * 64).digest()
    return value.hex()


def application(environ, start_response):
    jobs = [gevent.spawn(digest, 100), gevent.spawn(digest, 200)]
    gevent.sleep(0.02)  # stands for a database
    gevent.joinall(jobs)
    body = ''.join(job.value for job in jobs).encode()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]
