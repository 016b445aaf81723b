"""What our hooks do when they fail themselves: the application goes on, the failure is counted and told once."""

from __future__ import annotations

from typing import Dict

from ._tell import tell

#: How often each hook has failed in this process; `profilomatic.status()` shows it as ``hook_failures``.
failures: Dict[str, int] = {}


def failed(hook: str, error: BaseException) -> None:
    """Count a failure of `hook`, and tell the first one. Never raises."""
    count = failures.get(hook, 0)
    failures[hook] = count + 1
    if count == 0:
        tell('%s failed: %r; the application goes on, told once and counted in status()' % (hook, error))
