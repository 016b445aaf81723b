"""OpenTelemetry: root spans as actions.

    import profilomatic.otel
    profilomatic.otel.patch()            # after the tracer provider was set

Every span without a parent in this process becomes an action of the span's name (its last one: instrumentations name a
span when they know the route), and the trace's id is its task UUID. For a provider that one makes oneself there is
``provider.add_span_processor(profilomatic.otel.ActionSpanProcessor())``.

None of this is needed to find the profile of a trace: whatever makes an action, the ids of the span that is active when
it begins go with it, as ``trace_id`` and ``span_id``.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from opentelemetry import trace  # type: ignore[import-not-found,unused-ignore]
from opentelemetry.context import Context  # type: ignore[import-not-found,unused-ignore]
from opentelemetry.sdk.trace import (  # type: ignore[import-not-found,unused-ignore]
    ReadableSpan,
    Span,
    SpanProcessor,
)

from ._guard import failed
from ._switch import _runtime
from ._trace import tell_span

OPEN_SPANS = 4096  # root spans remembered at once; the oldest one's action is ended when more are open


class ActionSpanProcessor(SpanProcessor):  # type: ignore[misc,unused-ignore]
    """Makes an action of each root span: begun and ended where the span is."""

    def __init__(self) -> None:
        self._open: Dict[int, Any] = {}
        self._enabled = True

    def on_start(self, span: Span, parent_context: Optional[Context] = None) -> None:
        try:
            if not self._enabled or (span.parent is not None and not span.parent.is_remote):
                return
            context = span.get_span_context()
            if context is None:
                return
            uuid = '%032x' % context.trace_id
            action = _runtime.Action(span.name, '-'.join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:])))
            action.begin()
            if action.profiled:
                tell_span(action, context)
            self._open[context.span_id] = action
            while len(self._open) > OPEN_SPANS:
                self._open.pop(next(iter(self._open))).end()
        except Exception as error:
            failed('the begin of a span', error)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            context = span.get_span_context()
            action = None if context is None else self._open.pop(context.span_id, None)
            if action is not None:
                action.end(error=span.status.status_code is trace.StatusCode.ERROR, name=span.name)
        except Exception as error:
            failed('the end of a span', error)

    def shutdown(self) -> None:
        """Follow spans no longer; actions of those that are open end now."""
        self._enabled = False
        while self._open:
            self._open.popitem()[1].end()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


_processor: Optional[ActionSpanProcessor] = None


def patch() -> None:
    """Make actions of the root spans of the tracer provider in use. Calling it again does nothing."""
    global _processor
    if _processor is not None:
        return
    add: Any = getattr(trace.get_tracer_provider(), 'add_span_processor', None)
    if add is None:
        raise RuntimeError(
            "no tracer provider of OpenTelemetry's SDK is set; see opentelemetry.trace.set_tracer_provider"
        )
    _processor = ActionSpanProcessor()
    add(_processor)


def unpatch() -> None:
    """Make actions of spans no longer. Calling it again does nothing."""
    global _processor
    processor, _processor = _processor, None
    if processor is not None:
        processor.shutdown()
