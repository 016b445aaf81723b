"""A crowd of clients: `python3 crowd.py PORT SECONDS CLIENTS PATH...`; prints how many requests were answered, as JSON.

All are there at once, each on a connection of its own, and ask their one path again and again until the time is up."""

import asyncio
import json
import sys
import time


async def ask(port, path):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        writer.write(f'GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'.encode())
        answer = await reader.read()
        return answer.startswith(b'HTTP/1.1 200')
    finally:
        writer.close()


async def client(port, path, until, counts):
    while time.monotonic() < until:
        try:
            counts['answered' if await asyncio.wait_for(ask(port, path), 60) else 'failed'] += 1
        except (OSError, asyncio.TimeoutError):
            counts['failed'] += 1
            await asyncio.sleep(0.05)


async def main():
    port, seconds, clients = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    paths = sys.argv[4:]
    until = time.monotonic() + seconds
    counts = {'answered': 0, 'failed': 0}
    await asyncio.gather(*[client(port, paths[n % len(paths)], until, counts) for n in range(clients)])
    print(json.dumps(counts))


asyncio.run(main())
