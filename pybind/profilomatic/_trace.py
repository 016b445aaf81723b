"""What a profiled action is part of: the span of OpenTelemetry's that is active when it begins."""

from __future__ import annotations

import sys
from typing import Any

from ._guard import failed

FIELDS = 4  # a message that has fields of the action: see shm/record.h


def tell_span(action: Any, context: Any) -> None:
    """Have the ids of a span's context go with the action."""
    if context.is_valid:
        action.tell('{"trace_id":"%032x","span_id":"%016x"}' % (context.trace_id, context.span_id), FIELDS)


def note(action: Any) -> None:
    """Called by the runtime right after a profiled action began. OpenTelemetry is asked only where it is loaded."""
    get_current_span = getattr(sys.modules.get('opentelemetry.trace'), 'get_current_span', None)
    if get_current_span is None:
        return
    try:
        tell_span(action, get_current_span().get_span_context())
    except Exception as error:
        failed("reading OpenTelemetry's current span", error)
