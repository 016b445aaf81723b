"""Gunicorn: for a configuration file, where the server is not started by ``profilomatic run``:

    import profilomatic
    from profilomatic.gunicorn import post_worker_init    # or call it from your own

    profilomatic.add_destination(profilomatic.file_destination('/var/log/shop/profile.log'))

With ``preload_app`` this file is still read in the master; what it asks for holds in every worker.
"""

from __future__ import annotations

from typing import Any

from . import servers


def post_worker_init(worker: Any) -> None:
    """Gunicorn's hook of that name: wraps the worker's WSGI application. A wrapped one stays as it is."""
    servers.wrap_gunicorn_worker(worker)
