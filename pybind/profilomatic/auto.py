"""Importing this module switches profiling on from the environment and wraps the applications of known WSGI servers.

``profilomatic run`` has every Python process import it; in uWSGI, ``import = profilomatic.auto`` does the same for its
workers. PROFILOMATIC_ENABLED=0 makes it do nothing.
"""

from __future__ import annotations

from ._switch import forbidden, missing, switch
from ._tell import tell_tree


def start() -> None:
    """Switch on what the environment asks for. Never raises; calling it again does nothing."""
    try:
        if forbidden() or switch.wanted:
            return
        if not switch.native:
            # What is profiled in pure Python goes to destinations of the program's own, not to an aggregator.
            tell_tree('cannot profile: %s; the application runs on without it' % missing)
            return
        from . import servers

        switch.wanted = True
        switch.turn_on()
        if switch.on:
            servers.install()
    except Exception as error:
        tell_tree('cannot profile: %r; the application runs on without it' % error)


start()
