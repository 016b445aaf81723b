"""On which CPU the sampler runs: on its thread's, where that is cheaper; never where somebody decided otherwise."""

import json
import os

import pytest
from _sampled_scripts import SAMPLED, script, tells
from _support import run
from test_runtime_life import START, X86_64
from test_runtime_safety import FORBID

TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='there is only one CPU to be on')
FOLLOWS = pytest.mark.skipif(
    not os.confstr('CS_GNU_LIBC_VERSION')
    or tuple(map(int, os.confstr('CS_GNU_LIBC_VERSION').split()[1].split('.'))) < (2, 35),
    reason='the C library registers no restartable sequences',
)

PLACES = """
    ALL = os.sched_getaffinity(0)
    ONE, OTHER = sorted(ALL)[:2]
    def sampler():
        for task in os.listdir('/proc/self/task'):
            with open(f'/proc/self/task/{task}/comm') as file:
                if file.read().startswith('pom-sampler'):
                    return int(task)
    def until_it_is_on(cpus, seconds=20):
        until = time.monotonic() + seconds
        while os.sched_getaffinity(sampler()) != cpus and time.monotonic() < until:
            spin(0.02)
        return sorted(os.sched_getaffinity(sampler()))
"""


@TWO_CPUS
@FOLLOWS
def test_the_sampler_follows_its_thread_from_cpu_to_cpu(served):
    found = tells(
        script(
            START,
            SAMPLED,
            PLACES,
            """
            before = sorted(os.sched_getaffinity(sampler()) if sampler() else ALL)
            def work():
                found = []
                for cpu in (ONE, OTHER, ONE):
                    os.sched_setaffinity(0, {cpu})
                    found.append(until_it_is_on({cpu}))
                return found
            print(json.dumps([in_action('works', work) if admitted() else None, before, [ONE, OTHER], sorted(ALL)]))
            """,
        ),
        served,
    )
    placed, before, (one, other), everywhere = found
    assert placed == [[one], [other], [one]] and before == everywhere


@TWO_CPUS
def test_a_short_interval_leaves_it_where_the_kernel_likes(served):
    """Stacks of one function that stays are not torn, so it has no reason to go anywhere."""
    found = tells(
        script(
            START,
            SAMPLED,
            PLACES,
            """
            profilomatic.configure(time_granularity=0.001)
            def work():
                os.sched_setaffinity(0, {ONE})
                until_sampled(300)
                return until_it_is_on({ONE}, 0.5)
            print(json.dumps([in_action('works', work) if admitted() else None, sorted(ALL)]))
            """,
        ),
        served,
    )
    assert found[0] == found[1]


@TWO_CPUS
def test_what_others_decided_about_the_sampler_stays(served):
    """Before it was placed, and after."""
    found = tells(
        script(
            START,
            SAMPLED,
            PLACES,
            """
            def work():
                os.sched_setaffinity(sampler(), {OTHER})
                os.sched_setaffinity(0, {ONE})
                until_sampled(40)
                first = until_it_is_on({ONE}, 0.3)
                os.sched_setaffinity(sampler(), ALL)
                second = until_it_is_on({ONE})
                os.sched_setaffinity(sampler(), {OTHER})
                until_sampled(40)
                return [first, second, until_it_is_on({ONE}, 0.3)]
            print(json.dumps([in_action('works', work) if admitted() else None, [ONE, OTHER]]))
            """,
        ),
        served,
    )
    placed, (one, other) = found
    assert placed == [[other], [one], [other]]


@TWO_CPUS
@FOLLOWS
def test_an_aggregator_that_is_started_may_run_everywhere(tmp_path):
    """Also by a sampler that has its place, as where the former aggregator was killed."""
    done = run(
        script(
            START,
            SAMPLED,
            PLACES,
            """
            import signal
            def aggregator():
                for pid in filter(str.isdigit, os.listdir('/proc')):
                    try:
                        with open(f'/proc/{pid}/cmdline', 'rb') as file:
                            words = file.read().split(b'\\0')
                    except OSError:
                        continue
                    ours = os.environ['PROFILOMATIC_DIR'].encode()
                    if b'aggregator' in words[0] and any(word.startswith(ours) for word in words):
                        return int(pid)
            def work():
                os.sched_setaffinity(0, {ONE})
                return until_it_is_on({ONE})
            place = in_action('works', work) if admitted() else None
            former = aggregator()
            os.kill(former, signal.SIGKILL)
            until = time.monotonic() + 20
            while aggregator() in (former, None) and time.monotonic() < until:
                with profilomatic.action('another'):
                    spin(0.02)
            time.sleep(0.2)
            print(json.dumps([place, sorted(os.sched_getaffinity(aggregator())), sorted(ALL), ONE]))
            os.kill(aggregator(), signal.SIGTERM)
            """,
        ),
        tmp_path,
        profiled=False,
        PROFILOMATIC_RUN='',
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    place, aggregator, everywhere, one = json.loads(done.stdout)
    assert place == [one] and aggregator == everywhere


@X86_64
@TWO_CPUS
@pytest.mark.parametrize(
    'answer', ['0x80000000', '0x00000000', '0x00030000', '0x00050001'], ids=['kill', 'kill thread', 'trap', 'refuse']
)
@pytest.mark.parametrize('call', ['sched_setaffinity', 'sched_setattr'])
def test_a_filter_that_kills_for_asking_kills_nobody(call, answer, served):
    found = tells(
        script(
            FORBID,
            'forbid(0, "FORBIDDEN", answer=ANSWER)',
            START,
            SAMPLED,
            PLACES,
            """
            tried = sampled(lambda: until_sampled(40))
            print(json.dumps([tried, sorted(os.sched_getaffinity(sampler())), sorted(ALL)]))
            """,
            FORBIDDEN=call,
            ANSWER=answer,
        ),
        served,
    )
    tried, on, everywhere = found
    assert tried['samples'] > 20 and tried['unreadable'] == 0, found
    assert call != 'sched_setaffinity' or on == everywhere
