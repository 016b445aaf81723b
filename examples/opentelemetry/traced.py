"""OpenTelemetry: root spans are actions, and a profile says which trace and span it is of.

    python traced.py [SECONDS]

The call graphs of profiled actions go to traced_prof.log in the current directory.
"""

import sys
import time

import profilomatic
import profilomatic.otel
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
profilomatic.add_destination(profilomatic.file_destination('traced_prof.log'))
profilomatic.otel.patch()

tracer = trace.get_tracer('example')


def work():
    return sum(i * i for i in range(200_000))


until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 3)
while time.monotonic() < until:
    with tracer.start_as_current_span('shop:checkout'):  # an action
        with tracer.start_as_current_span('shop:charge'):  # a part of it
            work()
