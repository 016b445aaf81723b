"""The application under test: plain WSGI, three planted slow pages and a fast one, nothing of profilomatic in it."""

import socket
import threading
import time

counter_lock = threading.Lock()
start_lock = threading.Lock()
started = threading.Event()
own = threading.local()


def echo_late(theirs):
    """The other side of the socket: answers 15 ms after it was asked."""
    while True:
        asked = theirs.recv(1)
        time.sleep(0.015)
        theirs.send(asked)


def hold_lock():
    """Somebody who holds the lock most of the time, sleeping."""
    while True:
        with counter_lock:
            time.sleep(0.02)
        time.sleep(0.002)


def start_helpers():
    """Once a process, as threads do not survive the fork of a preloading server; and once a thread somebody to ask, as
    requests that shared one would wait for each other, not where they are planted."""
    with start_lock:
        if not started.is_set():
            started.set()
            threading.Thread(target=hold_lock, daemon=True).start()
    if not hasattr(own, 'socket'):
        own.socket, theirs = socket.socketpair()
        threading.Thread(target=echo_late, args=(theirs,), daemon=True).start()


def compute():
    total = 0
    for i in range(250000):
        total += i * i % 7  # PLANTED compute
    return total


def wait():
    own.socket.send(b'?')
    return own.socket.recv(1)  # PLANTED wait


def contend():
    with counter_lock:  # PLANTED lock
        return 1


PAGES = {'/compute': compute, '/wait': wait, '/lock': contend, '/fast': lambda: 'ok'}


def application(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/fail':
        raise RuntimeError('planted failure')
    if path == '/pid':
        import os

        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [str(os.getpid()).encode()]
    start_helpers()
    page = PAGES.get(path)
    if page is None:
        start_response('404 Not Found', [('Content-Type', 'text/plain')])
        return [b'no such page']
    body = repr(page()).encode()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]


app = application
