"""Stock. Third planted slowness: CONTENTION ON A LOCK that a background thread holds for too long.

The refresher asks the warehouse for new numbers while it holds the lock that every reader needs. It is started by the
first request of a process, because a thread that was started before a fork does not exist in the workers.
"""

import os
import threading
import time

WAREHOUSE_SECONDS = 0.08  # how long the warehouse takes to answer
PAUSE_SECONDS = 0.04  # between two refreshes

_lock = threading.Lock()
_pieces = {n: n % 17 for n in range(1, 501)}
_refresher = {'pid': 0}


def _ask_warehouse():
    time.sleep(WAREHOUSE_SECONDS)
    return {n: (pieces + 1) % 17 for n, pieces in _pieces.items()}


def _refresh():
    while True:
        with _lock:  # the mistake: the lock should be held for the update only, not while the warehouse is asked
            _pieces.update(_ask_warehouse())
        time.sleep(PAUSE_SECONDS)


def _start_refresher():
    if _refresher['pid'] != os.getpid():
        _refresher['pid'] = os.getpid()
        threading.Thread(target=_refresh, name='stock-refresher', daemon=True).start()


def pieces(product_id):
    """How many of a product there are."""
    _start_refresher()
    with _lock:  # SLOW: waits until the refresher lets go
        return _pieces.get(product_id, 0)
