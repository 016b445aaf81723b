"""The application of the life cycle tests: plain WSGI and ASGI. Every answer says in X-Pid which process gave it."""

import ctypes
import os
import signal
import subprocess
import sys


def compute():
    total = 0
    for i in range(60000):
        total += i * i % 7
    return total


def fork():
    """A child that is forked while its parent's request runs, and works on its own."""
    child = os.fork()
    if child == 0:
        compute()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def program():
    """Another program, and another Python, which under uWSGI is not sys.executable."""
    subprocess.run(['true'], check=True)
    python = os.path.join(sys.prefix, 'bin', 'python3')
    return subprocess.run([python, '-c', 'print(6 * 7)'], check=True, capture_output=True, text=True).stdout


def vanish():
    os._exit(9)


def hang():
    """With all threads and greenlets, as it keeps the GIL, and deaf: gunicorn's first try is a signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
    ctypes.PyDLL(None).sleep(60)


PAGES = {
    '/fast': lambda: 'ok',
    '/compute': compute,
    '/fork': fork,
    '/program': program,
    '/vanish': vanish,
    '/hang': hang,
}


def answer(path):
    page = PAGES.get(path)
    if page is None:
        return '404 Not Found', b'no such page'
    return '200 OK', repr(page()).encode()


def app(environ, start_response):
    status, body = answer(environ['PATH_INFO'])
    start_response(status, [('Content-Length', str(len(body))), ('X-Pid', str(os.getpid()))])
    return [body]


application = app


async def asgi(scope, receive, send):
    if scope['type'] != 'http':
        return
    status, body = answer(scope['path'])
    headers = [(b'content-length', b'%d' % len(body)), (b'x-pid', b'%d' % os.getpid())]
    await send({'type': 'http.response.start', 'status': int(status[:3]), 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
