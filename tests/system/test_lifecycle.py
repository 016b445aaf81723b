"""Servers' lives: whatever a server does with its processes, each worker is profiled, each request is counted, and
nothing of ours is left: no file, no process, no zombie; the server ends in time, with its own status.

POM_WHOLE_MATRIX=1 runs all of lifecycle.py's table, some 20 minutes; else what is OFTEN run there.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from lifecycle import CASES, OFTEN, Life

WHOLE = os.environ.get('POM_WHOLE_MATRIX') == '1'
AT_ONCE = 2


@pytest.fixture(scope='module')
def lives(request, tmp_path_factory):
    """Two at a time: most of a case is waiting."""
    asked = [item.callspec.params['name'] for item in request.session.items if 'lives' in item.fixturenames]
    asked = {name: tmp_path_factory.mktemp(name) for name in asked if CASES[name].needs() is None}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(lambda n=name, f=folder: Life(CASES[n], f).live()) for name, folder in asked.items()}


@pytest.mark.parametrize('name', [name for name in CASES if name in OFTEN or WHOLE])
def test_a_servers_life(name, lives):
    case = CASES[name]
    if name not in lives:
        pytest.skip(case.needs())
    life = lives[name].result()
    traffic, report = life.traffic, life.report

    assert life.returned in case.statuses, life.server.stderr
    assert life.zombies == set(), 'a child that nobody waits for'
    assert life.left_running == [], 'a process of its, or an aggregator, lives on'
    assert life.left_behind == [], 'files in shared memory'

    counted = {row['action_type']: row['count'] for row in report['actions']}
    profiled = sum(row['profiled'] for row in report['actions'])
    assert report['dropped'] == 0 and report['samples'] > 0 and profiled > 0, report
    for path, answered in traffic.answered.items():
        if case.exact:
            assert counted[path] == answered, (path, counted, traffic.answered, traffic.failed)
        else:
            # One that was answered may not have ended for us when its worker was killed, and the other way round.
            kills, in_flight = len(traffic.by_pid), traffic.failures
            assert answered - kills <= counted[path] <= answered + in_flight, (path, counted, traffic.answered)
    if case.exact:
        ended = len(traffic.by_pid) - case.workers
        assert traffic.failures <= case.resets * ended * traffic.clients, traffic.failed
        assert report['workers'] == len(traffic.by_pid), 'each process that answered, and no other'
    else:
        assert report['workers'] >= len(traffic.by_pid)
