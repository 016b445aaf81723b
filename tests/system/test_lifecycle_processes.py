"""However a program makes processes: each is profiled and counted, the program notices nothing, and nothing is left."""

from pathlib import Path

import pytest
from harness import HERE, VENV, Profiled, processes_of, said, wait_until
from lifecycle import PROFILE_MANY

# Way -> the processes that do actions, and the program's exit status.
WAYS = {
    'fork': (3, 0),
    'forkserver': (3, 0),
    'spawn': (3, 0),
    'executor': (2, 0),
    'exit': (1, 3),
    'daemon': (2, 0),
    'closed': (1, 0),
    'become': (2, 0),
}


@pytest.mark.parametrize('way', WAYS)
def test_however_a_process_is_made_it_is_profiled(way, tmp_path):
    processes, status = WAYS[way]
    profiled = Profiled(tmp_path, [VENV / 'python', HERE / 'processes.py', way], options=PROFILE_MANY)
    directory = None
    try:
        while directory is None and profiled.process.poll() is None:
            directory = next(iter(profiled.directories()), None)
        assert profiled.wait(120) == status, profiled.stderr
    finally:
        if profiled.process.poll() is None:
            profiled.kill()
    wait_until(lambda: processes_of(directory) == [], lambda: processes_of(directory))
    assert not Path(directory).exists()

    report = profiled.report
    assert {row['action_type']: row['count'] for row in report['actions']} == said(profiled.stdout_path.read_text())
    assert report['workers'] == processes and report['dropped'] == 0
    for row in report['actions']:
        assert row['action_type'] == 'around' or (row['profiled'] > 0 and row['hot']), (row, profiled.stderr)
