"""Payment. Second planted slowness: WAITING ON A SOCKET for a payment gateway that takes its time.

The gateway is a thread of this process that listens on loopback, so that the example needs nothing else. It is started
by the first payment, because a thread that was started before a fork does not exist in the workers.
"""

import os
import socket
import socketserver
import threading
import time

GATEWAY_SECONDS = 0.06

_gateway = {'pid': 0, 'address': None}


class _Gateway(socketserver.StreamRequestHandler):
    def handle(self):
        order = self.rfile.readline()
        time.sleep(GATEWAY_SECONDS)
        self.wfile.write(b'declined\n' if order.startswith(b'13 ') else b'ok\n')


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def _gateway_address():
    if _gateway['pid'] != os.getpid():
        server = _Server(('127.0.0.1', 0), _Gateway)
        threading.Thread(target=server.serve_forever, name='payment-gateway', daemon=True).start()
        _gateway.update(pid=os.getpid(), address=server.server_address)
    return _gateway['address']


def charge(order, amount):
    """True if the gateway took the money."""
    with socket.create_connection(_gateway_address(), timeout=5) as connection:
        connection.sendall(b'%d %d\n' % (order, amount))
        answer = connection.recv(64)  # SLOW: the gateway answers after 60 ms
    return answer.startswith(b'ok')
