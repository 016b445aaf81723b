"""Talking to the aggregator: one JSON object a line over the Unix socket in the runtime directory."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Dict, Iterator, Mapping, Optional

LINE_BYTES = 64 << 20  # longest line that is believed; one message is a few KiB


class Connection:
    """A connection to the control socket. OSError if nobody listens there.

    Not for use by two threads at once, except that one may send while another receives.
    """

    def __init__(self, directory: str, timeout: float = 1.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.buffer = bytearray()
        try:
            self.socket.settimeout(timeout)
            self.socket.connect(os.path.join(directory, 'control'))
        except BaseException:
            self.socket.close()
            raise

    def send(self, request: Mapping[str, Any]) -> None:
        import json

        self.socket.sendall(json.dumps(request).encode() + b'\n')

    def lines(self) -> Iterator[bytes]:
        """The whole lines received so far."""
        while True:
            end = self.buffer.find(b'\n')
            if end < 0:
                return
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 1]
            yield line

    def receive(self, timeout: Optional[float]) -> bool:
        """Wait for more bytes; False if none came in time. ConnectionError once the other side has gone."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 16)
        except (socket.timeout, BlockingIOError):
            return False
        if not data or len(self.buffer) > LINE_BYTES:
            raise ConnectionError('the aggregator closed the connection')
        self.buffer += data
        return True

    def close(self) -> None:
        self.socket.close()


def ask(directory: str, request: Mapping[str, Any], timeout: float = 1.0) -> Optional[Dict[str, Any]]:
    """One request, one reply; None if the aggregator does not answer within `timeout` seconds."""
    import json

    deadline = time.monotonic() + timeout
    try:
        connection = Connection(directory, timeout)
    except OSError:
        return None
    try:
        connection.send(request)
        while time.monotonic() < deadline:
            for line in connection.lines():
                reply = json.loads(line)
                return reply if isinstance(reply, dict) else None
            connection.receive(max(0.001, deadline - time.monotonic()))
    except (OSError, ValueError):
        pass
    finally:
        connection.close()
    return None
