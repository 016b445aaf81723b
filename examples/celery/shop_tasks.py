"""Celery: tasks are actions of their names.

    celery -A shop_tasks worker          a worker with a pool of processes; its broker is a folder here
    python shop_tasks.py                 publishes tasks from inside an action, whose task UUID goes with them

The call graphs of profiled tasks go to celery_prof.log in the current directory.
"""

import os

import celery
import profilomatic
import profilomatic.celery

profilomatic.add_destination(profilomatic.file_destination('celery_prof.log'))
profilomatic.celery.patch()

app = celery.Celery('shop_tasks', broker='filesystem://')
os.makedirs('queue', exist_ok=True)
app.conf.broker_transport_options = {'data_folder_in': 'queue', 'data_folder_out': 'queue', 'control_folder': 'queue'}


@app.task
def charge(n):
    return sum(i * i for i in range(n))


if __name__ == '__main__':
    with profilomatic.action('shop:checkout') as action:
        for _ in range(100):
            charge.delay(100_000)
    print(action.task_uuid)
