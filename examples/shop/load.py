"""Puts load on the shop for a while and says what it did. Standard library only:

    python3 load.py http://127.0.0.1:8000 --seconds 15 --clients 6 [--json]

Ends with status 1 if a request failed.
"""

import argparse
import collections
import http.client
import json
import random
import sys
import threading
import time
from urllib.parse import urlsplit

# share of the requests, name of the page, a path of it
PAGES = [
    (34, '/', lambda r: '/'),
    (26, '/product/<int:product_id>', lambda r: '/product/%d' % r.randint(1, 500)),
    (10, '/search/<word>', lambda r: '/search/%s' % r.choice(['red', 'lamp', 'mug', 'o'])),
    (10, '/cart/<int:cart_id>', lambda r: '/cart/%d' % r.randint(100, 999)),
    (10, '/checkout/<int:cart_id>', lambda r: '/checkout/%d' % r.randint(100, 999)),
    (10, '/stock/<int:product_id>', lambda r: '/stock/%d' % r.randint(1, 500)),
]


def client(host, port, seed, until, pause, counts, failures):
    """One client: a request after the other, each on a connection of its own."""
    chooser = random.Random(seed)
    shares = [page[0] for page in PAGES]
    while time.monotonic() < until:
        _, name, path = chooser.choices(PAGES, shares)[0]
        try:
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request('GET', path(chooser))
            answer = connection.getresponse()
            answer.read()
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            failures[type(error).__name__] += 1
            time.sleep(0.1)
            continue
        counts[name] += 1
        if answer.status >= 500:
            failures['status %d' % answer.status] += 1
        time.sleep(pause)


def wait_for(host, port, seconds):
    """True once the server takes connections."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection(host, port, timeout=1)
            connection.connect()
            connection.close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def main():
    parser = argparse.ArgumentParser(description='Put load on the shop.')
    parser.add_argument('url')
    parser.add_argument('--seconds', type=float, default=15)
    parser.add_argument('--clients', type=int, default=6)
    parser.add_argument('--pause', type=float, default=0.02, help='seconds each client waits between two requests')
    parser.add_argument('--wait', type=float, default=20, help='seconds to wait for the server to come up')
    parser.add_argument('--json', action='store_true', help='print the counts as one JSON object')
    options = parser.parse_args()
    address = urlsplit(options.url)
    if not wait_for(address.hostname, address.port or 80, options.wait):
        sys.exit('%s does not answer' % options.url)

    counts = [collections.Counter() for _ in range(options.clients)]
    failures = [collections.Counter() for _ in range(options.clients)]
    began = time.monotonic()
    threads = [
        threading.Thread(
            target=client,
            args=(
                address.hostname,
                address.port or 80,
                n,
                began + options.seconds,
                options.pause,
                counts[n],
                failures[n],
            ),
        )
        for n in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    total = sum(counts, collections.Counter())
    failed = sum(failures, collections.Counter())
    if options.json:
        print(json.dumps({'counts': total, 'failures': failed, 'seconds': took}))
    else:
        print('%d requests in %.1f s' % (sum(total.values()), took))
        for name, count in sorted(total.items()):
            print('%8d  %s' % (count, name))
        for name, count in sorted(failed.items()):
            print('%8d  failed: %s' % (count, name))
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
