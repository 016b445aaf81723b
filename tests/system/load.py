"""A load generator: `python3 load.py PORT SECONDS THREADS PATH[=WEIGHT] ...`; prints {path: answered} as JSON.

Each thread asks the next path of the weighted round, one request at a time, on a connection of its own, and counts a
path when its answer has been read whole. It ends by itself.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter


def expand(words):
    paths = []
    for word in words:
        path, _, weight = word.partition('=')
        paths += [path] * int(weight or 1)
    return paths


def drive(port, until, paths, offset, answered, failures):
    n = offset
    while time.monotonic() < until:
        path = paths[n % len(paths)]
        n += 1
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
        try:
            connection.request('GET', path)
            response = connection.getresponse()
            response.read()
            answered[path] += 1
        except (OSError, http.client.HTTPException) as error:
            failures[type(error).__name__] += 1
            time.sleep(0.05)
        finally:
            connection.close()


def main():
    port, seconds, threads = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    paths = expand(sys.argv[4:])
    until = time.monotonic() + seconds
    counts = [Counter() for _ in range(threads)]
    failures = [Counter() for _ in range(threads)]
    workers = [
        threading.Thread(target=drive, args=(port, until, paths, i * 7, counts[i], failures[i])) for i in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({'answered': sum(counts, Counter()), 'failed': sum(failures, Counter())}))


if __name__ == '__main__':
    main()
