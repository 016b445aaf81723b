"""What the tests of delivery share: the driver of the delivery thread, and a REST server that misbehaves as told."""

import gzip
import http.server
import json
import os
import socket
import struct
import subprocess
import threading
import time

from _command import BUILD

DRIVER = BUILD / 'tests' / 'drive_delivery'


class Driver:
    """tests/unit/drive_delivery.c; `spool` is the folder that it may spool to, `more` goes into its environment."""

    def __init__(self, spool=None, **more):
        self.process = subprocess.Popen(
            [DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PROFILOMATIC_SPOOL=str(spool or '/nonexistent/spool'), **more),
        )

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def add(self, **spec):
        return self.tell(add=spec)

    def put(self, destination, *numbers):
        for n in numbers:
            self.tell(put=[destination, json.dumps({'n': n})])

    def end(self):
        """Close its input: it stops as the aggregator does. Returns what it logged."""
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return errors


class Server:
    """A REST server that remembers what it got; `script` holds what to do before it answers 200: (status, headers,
    text), or 'reset', 'close' (without reading), 'vanish' (it has taken the lines, and closes), or a callable.
    `always` is what it adds to each answer's headers."""

    def __init__(self, context=None, port=0):
        self.lines, self.keys, self.times, self.connections, self.script = [], [], [], 0, []
        self.headers, self.paths, self.always = [], [], {}
        self.taken = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def setup(self):
                outer.connections += 1
                super().setup()

            def do_POST(self):
                step = outer.script.pop(0) if outer.script else (200, {}, b'ok')
                if callable(step):
                    step = step()
                if step in ('reset', 'close'):
                    if step == 'reset':
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers['Content-Length']))
                if self.headers.get('Content-Encoding') == 'gzip':
                    body = gzip.decompress(body)
                outer.times.append(time.monotonic())
                outer.keys.append(self.headers['Idempotency-Key'])
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                status, headers, text = (200, {}, b'') if step == 'vanish' else step
                if callable(status):
                    status = status()
                if status == 200:
                    outer.take(self.headers['Idempotency-Key'], [json.loads(line) for line in body.splitlines()])
                if step == 'vanish':
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**outer.always, **headers}.items():
                    self.send_header(name, value)
                self.send_header('Content-Length', str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a handshake that a client breaks off is what some tests are about

        self.http = Quiet(('127.0.0.1', port), Handler)
        if context is not None:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.scheme = 'https' if context is not None else 'http'
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, key, lines):
        self.lines += lines
        if key not in self.taken:
            self.taken[key] = lines

    def once(self):
        """The numbers it got, without the batches whose key it knew."""
        return [line['n'] for lines in self.taken.values() for line in lines]

    def url(self, host='127.0.0.1'):
        return f'{self.scheme}://{host}:{self.port}/api/data'

    def numbers(self):
        return [line['n'] for line in self.lines]

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.02)
