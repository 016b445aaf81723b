"""Actions of one's own: a program that is no web server.

    python report.py [SECONDS]

The call graphs of profiled actions go to report_prof.log in the current directory.
"""

import asyncio
import sys
import time

import profilomatic

profilomatic.add_destination(profilomatic.file_destination('report_prof.log'))


@profilomatic.profiled('report:rows')  # a generator: its action lasts from the first row to the last
def rows(count):
    for n in range(count):
        yield sum(i * i for i in range(n % 1000))


@profilomatic.profiled('report:fetch')  # a coroutine: what it awaits is part of it
async def fetch(n):
    await asyncio.sleep(0.01)
    return n


async def fetch_all():
    return await asyncio.gather(*(fetch(n) for n in range(5)))


def build(customer):
    # Fields go with the action into its messages. What happens inside has its task UUID.
    with profilomatic.action('report:build', customer=customer) as action:
        total = sum(rows(2000)) + sum(asyncio.run(fetch_all()))
        assert profilomatic.current_task_uuid() == action.task_uuid
    return total


until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 3)
while time.monotonic() < until:
    build(customer=7)
