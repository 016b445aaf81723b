"""A hundred endpoints that each compute for BUSY_MS of CPU; `/p/<two letters from a to j>`."""

import os
import time

SECONDS = float(os.environ.get('BUSY_MS', '5')) / 1e3


def app(environ, start_response):
    until = time.thread_time() + SECONDS
    total = 0
    while time.thread_time() < until:
        total += sum(range(200))
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'%d' % (total & 1)]
