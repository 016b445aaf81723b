"""A task that goes on in another process: both ends are profiled, and joined by the task's UUID and level.

    python remote_tasks.py

Prints where each profiled action stands in its task.
"""

import subprocess
import sys
import time

import eliot
import profilomatic
import profilomatic.eliot

profiles = []
profilomatic.add_destination(profiles.append)
profilomatic.configure(source_name='remote-tasks', max_actions_per_run=0)
eliot.add_destinations(lambda message: None)  # the application's log
profilomatic.eliot.patch()


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def told(action_type):
    """The first profile of this type, once it has arrived."""
    for _ in range(600):
        found = [profile for profile in profiles if profile['action_type'] == action_type]
        if found:
            return found[0]
        work(0.02)
    raise SystemExit('nothing was profiled')


def show(profile):
    print(profile['action_type'], profile['task_uuid'], profile.get('task_level', []), flush=True)


def other_end(task_id):
    with eliot.Action.continue_task(task_id=task_id):
        work(0.2)
    show(told('eliot:remote_task'))


def this_end():
    while not profiles:  # profiling has begun once one action was profiled
        with eliot.start_action(action_type='warm-up'):
            work(0.05)
    with eliot.start_action(action_type='order') as order:
        work(0.2)
        task_id = order.serialize_task_id().decode()
        subprocess.run([sys.executable, __file__, task_id], check=True)
    show(told('order'))


if __name__ == '__main__':
    if len(sys.argv) > 1:
        # Nothing is profiled in a process's first moments, so the task is continued a little later.
        with eliot.start_action(action_type='warm-up'):
            work(0.05)
        while not profilomatic.status()['process'].get('admitted'):
            with eliot.start_action(action_type='warm-up'):
                work(0.05)
        other_end(sys.argv[1])
    else:
        this_end()
