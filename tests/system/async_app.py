"""Two endpoints for any server: /a calls only `fa` and /b only `fb`, each a few times with waiting in between; /status
tells of the process that answers."""

import asyncio
import json
import time

import profilomatic

WAIT = 0.2
TURNS = 4
SPIN = 0.0003


def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def fa():
    spin(SPIN)


def fb():
    spin(SPIN)


FUNCTIONS = {'/a': fa, '/b': fb}


def status():
    return json.dumps(profilomatic.status()['process']).encode()


def wsgi(environ, start_response):
    function = FUNCTIONS.get(environ['PATH_INFO'])
    if function is None:
        body = status()
    else:
        body = b'done'
        for _ in range(TURNS):
            function()
            time.sleep(WAIT)
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope['type'] != 'http':
        raise ValueError('only HTTP')
    function = FUNCTIONS.get(scope['path'])
    if function is None:
        body = status()
    else:
        body = b'done'
        for turn in range(TURNS):
            if turn == 0:  # a child task and a thread of a pool work for the request as well
                await asyncio.create_task(asyncio.to_thread(function))
            else:
                function()
            await asyncio.sleep(WAIT)
    headers = [(b'content-type', b'text/plain'), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
