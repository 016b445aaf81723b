"""What a program may write, as mypy understands it."""

import sys
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List, Optional

import profilomatic

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type

received: List[Dict[str, Any]] = []

profilomatic.configure(max_overhead='2%', time_granularity=0.01, code_granularity='line', scope='process')
profilomatic.configure(max_overhead=0.02, store_all_logs=True, max_actions_per_run=0, source_name='web')
profilomatic.add_destination(received.append)
profilomatic.add_destination(profilomatic.file_destination('profile.log'))
profilomatic.add_destination(profilomatic.FileDestination(sys.stderr))
profilomatic.remove_destination(received.append)

assert_type(profilomatic.current_task_uuid(), Optional[str])
assert_type(profilomatic.status(), Dict[str, Any])
assert_type(profilomatic.implementation, str)

with profilomatic.action('report:build', customer=7) as action:
    assert_type(action.task_uuid, Optional[str])
    assert_type(action.profiled, bool)


@profilomatic.profiled('plain')
def plain(a: int, b: str = '') -> float:
    return a + len(b)


@profilomatic.profiled
def bare(a: int) -> int:
    return a


@profilomatic.action('decorated')
def decorated(a: int) -> int:
    return a


@profilomatic.profiled('steps')
def steps(n: int) -> Iterator[int]:
    yield n


@profilomatic.profiled('waits')
async def waits(n: int) -> int:
    return n


@profilomatic.profiled('async steps')
async def async_steps(n: int) -> AsyncIterator[int]:
    yield n


assert_type(plain(1, b='x'), float)
assert_type(bare(1), int)
assert_type(decorated(1), int)
assert_type(steps(1), Iterator[int])


async def consume() -> None:
    assert_type(await waits(1), int)
    async for item in async_steps(2):
        assert_type(item, int)


class Application:
    config: Dict[str, str] = {}

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> List[bytes]:
        return []


wrapped = profilomatic.wsgi.wrap(Application())
assert_type(wrapped.config, Dict[str, str])


@profilomatic.wsgi.wrap
def application(environ: Dict[str, Any], start_response: Callable[..., Any]) -> List[bytes]:
    return []
