"""The table of lives: servers as they are really started, and what happens to them while they serve.

A case names the server, what is done to it under load, and what must hold afterwards beyond that which always
must (see test_lifecycle.py).
"""

import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from harness import BUILD, HERE, VENV, Profiled, Served, free_port, has_sampler, processes_of, wait_for_port, zombies
from traffic import Traffic

PROFILE_MANY_ASKED = {
    'PROFILOMATIC_MAX_ACTIONS_PER_RUN': '100',
    'PROFILOMATIC_MAX_OVERHEAD': '0.5',
    'PROFILOMATIC_TIME_GRANULARITY': '0.002',
}
DEBIAN_PYTHON = '/usr/bin/python3'
PATHS = ['/compute', '/fast']
PROFILE_MANY = ('--max-actions', '100', '--max-overhead', '0.5', '--interval', '0.002')


def extension_of(python):
    """The extension's file for that interpreter, if it was built."""
    out = subprocess.run(
        [python, '-c', 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'],
        capture_output=True,
        text=True,
    )
    found = BUILD / 'python' / 'profilomatic' / f'_runtime{out.stdout.strip()}'
    return found if found.exists() else None


@dataclass
class Case:
    command: Callable  # port -> words
    during: Optional[Callable] = None  # what happens under load: f(life)
    workers: int = 2  # that serve when it has come to rest
    at_first: int = 2  # before anything happens
    stop: int = signal.SIGTERM
    statuses: tuple = (0,)
    paths: list = field(default_factory=lambda: PATHS)
    exact: bool = True  # no request fails, and each is counted
    resets: bool = False  # … but a worker that ends resets connections that have not asked yet
    recycled: bool = False  # workers are too short-lived to be sampled each
    service: bool = False  # the profile is gathered by a service, not by `profilomatic run` …
    embedded: bool = False  # … or by the private aggregator that workers start
    needs: Callable = lambda: None  # a reason to skip
    other_user: bool = False
    finish: Optional[Callable] = None  # ends the server: f(life) -> status


class Life:
    """One case, lived: what was observed, for the test to judge."""

    def __init__(self, case, tmp_path):
        self.case = case
        self.port = free_port()
        self.folder = None
        extra = {}
        if case.other_user:
            self.folder = folder_for_everybody()
            extra = {'cwd': self.folder, 'program': self.folder / 'build' / 'bin' / 'profilomatic'}
        command = case.command(self.port)
        if case.other_user:
            extra['env'] = {'PYTHONPATH': str(self.folder / 'site')}
        if case.service or case.embedded:
            self.server = Served(tmp_path, command, env=PROFILE_MANY_ASKED, service=case.service)
        else:
            self.server = Profiled(tmp_path, command, options=PROFILE_MANY, **extra)
        self.traffic = None

    def live(self):
        case, server = self.case, self.server
        try:
            wait_for_port(self.port, server.process)
            self.directory = server.directory()
            self.traffic = Traffic(self.port, case.paths)
            time.sleep(0.7)
            # uWSGI loses a signal to reload that comes while a worker starts.
            self.wait_until(lambda: case.recycled or len(self.serving()) >= case.at_first, 'all workers')
            if case.during is not None:
                case.during(self)
            self.come_to_rest()
            self.traffic.stop()
            self.zombies = set() if case.finish else self.lasting_zombies()
            self.let_all_end()
            self.status = server.status()
            self.returned = self.stop()
            if case.embedded:
                self.report = server.ask('report')  # while it waits for another worker
            self.left_running = self.those_who_stay()
            if case.embedded:
                self.left_behind = [server.directory()] if server.place.exists() else []
            elif case.service:
                self.report = server.ask('report')
                self.left_behind = self.rings_left()
            else:
                self.report = server.report
                self.left_behind = sorted(map(str, Path(self.directory).parent.glob(Path(self.directory).name)))
        finally:
            if self.traffic is not None:
                self.traffic.stop()
            if isinstance(server, Served):
                server.close()
            elif server.process.poll() is None:
                server.kill()
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
        return self

    # ---- what cases do

    def master(self):
        """The server's first process."""
        if isinstance(self.server, Served):
            return self.server.process.pid
        below = Path(f'/proc/{self.server.process.pid}/task/{self.server.process.pid}/children').read_text().split()
        found = [int(pid) for pid in below if not is_ours(int(pid))]
        assert len(found) == 1, found
        return found[0]

    def signal(self, number):
        os.kill(self.master(), number)

    def wait_until(self, condition, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f'{what}: not in {seconds} s\n{self.server.stderr[-2000:]}')
            time.sleep(0.05)

    def serving(self):
        """Processes that answered within the last moments and are still there."""
        return {pid for pid in self.traffic.recent_pids() if has_sampler(pid)}

    # ---- what is observed

    def sampled(self):
        return {
            worker['pid']: worker['samples'] for pool in self.server.status()['pools'] for worker in pool['workers']
        }

    def come_to_rest(self):
        """Load goes on until each worker that lives has been sampled."""
        if self.case.recycled:
            time.sleep(1)
            return
        seen = {}

        def all_sampled():
            seen['serving'] = serving = self.serving()
            if len(serving) != self.case.workers:
                return False
            seen['sampled'] = sampled = self.sampled()
            return all(sampled.get(pid, 0) > 0 for pid in serving)

        try:
            self.wait_until(all_sampled, 'every live worker is sampled')
        except AssertionError as error:
            raise AssertionError(f'{error}\n{seen}') from None

    def let_all_end(self):
        """A server closes what it has answered right after the last byte. One that is stopped in between has answered a
        request that never ended, which is no loss of ours: so the aggregator is asked until it knows of them all, or
        for as long as a worker may take for that."""
        deadline = time.monotonic() + 10
        while self.case.exact and time.monotonic() < deadline:
            rows = [row for pool in self.server.status()['pools'] for row in pool.get('actions', [])]
            if sum(row['count'] for row in rows) >= sum(self.traffic.answered.values()):
                break
            time.sleep(0.05)

    def lasting_zombies(self):
        first = zombies(self.master())
        deadline = time.monotonic() + 5
        while first and time.monotonic() < deadline:
            time.sleep(0.1)
            first &= zombies(self.master())
        return first

    def stop(self):
        server, number = self.server, self.case.stop
        if self.case.finish is not None:
            return self.case.finish(self)
        if isinstance(server, Profiled):
            return server.stop(number, 90)
        server.process.send_signal(number)
        return server.process.wait(90)

    def those_who_stay(self):
        deadline = time.monotonic() + 60
        while (left := processes_of(self.directory)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def rings_left(self):
        deadline = time.monotonic() + 60
        while (left := self.server.rings()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return list(map(str, left))


def is_ours(pid):
    try:
        return b'profilomatic-aggregator' in Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')[0]
    except OSError:
        return True


# ---- the servers ---------------------------------------------------------------------------------------------------


# Servers give up on a client that is slow to ask: on a busy machine ours is.
UWSGI = ('--master', '-p', '2', '-w', 'life_app', '--disable-logging', '--socket-timeout', '60')
GUNICORN = ('-w', '2', '--log-level', 'warning', '--keep-alive', '60')


def gunicorn(*options, app='life_app:app'):
    return lambda port: [VENV / 'gunicorn', '-b', f'127.0.0.1:{port}', *GUNICORN, *options, app]


def lacks(*packages):
    """In the servers' environment, which is mostly ours too."""
    if not packages:
        return None
    script = f'import {", ".join(packages)}'
    missing = subprocess.run([VENV / 'python', '-c', script], capture_output=True).returncode != 0
    return f'one of {packages} is not installed' if missing else None


def uwsgi(*options):
    return lambda port: [VENV / 'uwsgi', '--http-socket', f'127.0.0.1:{port}', *UWSGI, *options]


def debian_uwsgi(*options):
    words = ('/usr/bin/uwsgi', '--plugin', 'python3')
    return lambda port: [*words, '--http-socket', f'127.0.0.1:{port}', *UWSGI, *options]


# Starts a server that becomes a daemon, and stays for as long as that has its pid in its file, as an init script does.
KEEPER = """
pid=$1
shift
"$@" || exit
while [ ! -s "$pid" ]; do sleep 0.1; done
trap 'kill -s TERM "$(cat "$pid")"' TERM
trap 'kill -s INT "$(cat "$pid")"' INT
while [ -e "$pid" ]; do sleep 0.1; done
"""


def daemon(command, option):
    """`option` names the file for the server's pid."""

    def words(port):
        pid = Path(tempfile.gettempdir(), f'profilomatic-life-{port}.pid')
        server, *rest = command(port)
        return ['sh', '-c', KEEPER, 'sh', pid, server, option, pid, *rest]

    return words


def needs_debian():
    if not Path('/usr/bin/uwsgi').exists() or extension_of(DEBIAN_PYTHON) is None:
        return "no uWSGI of Debian's, or no extension for its python3"
    return None


# ---- another user --------------------------------------------------------------------------------------------------


def needs_another_user():
    if os.geteuid() != 0:
        return 'only root can give its workers to another user'
    return needs_debian()


def folder_for_everybody():
    """What nobody's processes read: build, gunicorn, application; below /tmp, since the checkout may be closed."""
    folder = Path(tempfile.mkdtemp(prefix='profilomatic-life-', dir='/tmp'))
    folder.chmod(0o755)
    for part in ('bin', 'python'):
        shutil.copytree(BUILD / part, folder / 'build' / part)
    shutil.copy(HERE / 'life_app.py', folder)
    packages = Path(sysconfig.get_path('purelib', vars={'base': VENV.parent, 'platbase': VENV.parent}))
    for package in ('gunicorn', 'packaging'):
        shutil.copytree(packages / package, folder / 'site' / package)
    return folder


def gunicorn_for_nobody(*options):
    words = gunicorn('-u', 'nobody', '-g', 'nogroup', *options)
    return lambda port: [DEBIAN_PYTHON, '-m', 'gunicorn', *words(port)[1:]]


def uwsgi_for_nobody(*options):
    return debian_uwsgi('--uid', 'nobody', '--gid', 'nogroup', *options)


# ---- what happens to them ------------------------------------------------------------------------------------------


def reload(number):
    """The server replaces its workers, gracefully."""

    def during(life):
        before = life.serving()
        life.signal(number)
        life.wait_until(lambda: life.serving() and not life.serving() & before, 'new workers')

    return during


def hang(life):
    """A request that never ends: the server kills its worker and makes another."""
    before = life.serving()
    life.hung = not life.traffic.ask('/hang')
    life.wait_until(lambda: life.serving() - before, 'a new worker')


def vanish(life):
    """The application ends its process in the middle of a request."""
    before = life.serving()
    life.traffic.ask('/vanish')
    life.wait_until(lambda: life.serving() - before, 'a new worker')


def parent_of(pid):
    return int(Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1])


def upgrade(life):
    """gunicorn starts a new master beside itself, which takes over when the old one is told to go."""
    old = life.master()
    before = life.serving()
    os.kill(old, signal.SIGUSR2)
    life.wait_until(lambda: len(life.serving() - before) == 2, 'workers of the new master')
    new = {parent_of(pid) for pid in life.serving() - before}
    assert len(new) == 1 and old not in new
    life.new_master = new.pop()
    os.kill(old, signal.SIGTERM)
    life.wait_until(lambda: life.server.process.poll() is not None, 'the end of the old master')


def stop_upgraded(life):
    status = life.server.process.wait()
    os.kill(life.new_master, signal.SIGTERM)
    life.wait_until(lambda: not Path(f'/proc/{life.new_master}').exists(), 'the end of the new master')
    return status


def flood(life):
    """Enough at once for uWSGI to start its spare worker."""
    more = [Traffic(life.port, ['/compute'], 4)]
    life.wait_until(lambda: len(life.serving() | more[0].recent_pids()) >= 2, 'a second worker')
    for traffic in more:
        traffic.stop()
        life.traffic.add(traffic)


# ---- the table: each form of a server, and each thing that may happen to it ----------------------------------------

FORMS_OF_GUNICORN = {  # name -> options, application, packages beside gunicorn
    'gunicorn': ((), 'life_app:app', ()),
    'gunicorn-gthread': (('-k', 'gthread', '--threads', '3'), 'life_app:app', ()),
    'gunicorn-gevent': (('-k', 'gevent'), 'life_app:app', ('gevent',)),
    'gunicorn-uvicorn': (('-k', 'uvicorn_worker.UvicornWorker'), 'life_app:asgi', ('uvicorn_worker',)),
}
FORMS_OF_UWSGI = {  # name -> options
    '': (),
    '-lazy': ('--lazy-apps',),
    '-threads': ('--enable-threads', '--threads', '2'),
    '-hooks': ('--py-call-uwsgi-fork-hooks',),
    '-hooks-threads': ('--py-call-uwsgi-fork-hooks', '--enable-threads'),
}
KILLED = {'exact': False}
HAPPENS_TO_ALL = {  # name -> options, what is done, what is known of it
    '': ((), None, {}),
    '-max-requests': (('--max-requests', '10'), None, {'recycled': True}),
    '-vanish': ((), vanish, KILLED),
    '-fork': ((), None, {'paths': [*PATHS, '/fork']}),
    '-subprocess': ((), None, {'paths': [*PATHS, '/program']}),
}
HAPPENS_TO_GUNICORN = HAPPENS_TO_ALL | {
    '-timeout': (('--timeout', '2'), hang, KILLED),
    '-reload': ((), reload(signal.SIGHUP), {}),
    '-upgrade': ((), upgrade, {'service': True, 'finish': stop_upgraded}),
    '-embedded': ((), reload(signal.SIGHUP), {'embedded': True}),
}
HAPPENS_TO_UWSGI = HAPPENS_TO_ALL | {
    '-harakiri': (('--harakiri', '2'), hang, KILLED),
    '-reload': ((), reload(signal.SIGHUP), KILLED),
    '-embedded': ((), None, {'embedded': True}),
}
# The others only in the whole matrix.
OFTEN = {
    *('gunicorn', 'gunicorn-preload', 'gunicorn-gthread', 'gunicorn-gevent', 'gunicorn-gevent-preload'),
    *('gunicorn-uvicorn', 'gunicorn-max-requests', 'gunicorn-timeout', 'gunicorn-reload', 'gunicorn-preload-vanish'),
    *('gunicorn-upgrade', 'gunicorn-nobody', 'gunicorn-preload-embedded', 'gunicorn-gthread-fork'),
    *('gunicorn-gthread-subprocess', 'gunicorn-daemon', 'uwsgi-nobody', 'uwsgi-embedded', 'uwsgi-cheaper'),
    *(f'uwsgi{form}' for form in FORMS_OF_UWSGI),
    *('uwsgi-max-requests', 'uwsgi-harakiri', 'uwsgi-reload', 'uwsgi-lazy-reload', 'uwsgi-vanish'),
    *('debian_uwsgi', 'debian_uwsgi-hooks'),
}


def gunicorns():
    for form, (options, app, packages) in FORMS_OF_GUNICORN.items():
        for preload, again in (('', ()), ('-preload', ('--preload',))):
            for event, (more, during, facts) in HAPPENS_TO_GUNICORN.items():
                command = gunicorn(*options, *again, *more, app=app)
                facts = {'resets': form == 'gunicorn-uvicorn', **facts}
                yield form + preload + event, Case(command, during, needs=lambda p=packages: lacks(*p), **facts)
                if packages or facts.get('service') or facts.get('embedded'):
                    continue  # another user has only what Debian has
                name = form.replace('gunicorn', 'gunicorn-nobody') + preload + event
                command = gunicorn_for_nobody(*options, *again, *more)
                yield name, Case(command, during, needs=needs_another_user, other_user=True, **facts)
    yield 'gunicorn-daemon', Case(daemon(gunicorn('--daemon'), '--pid'), service=True)
    yield 'gunicorn-preload-daemon', Case(daemon(gunicorn('--preload', '--daemon'), '--pid'), service=True)


def uwsgis():
    interrupt = {'stop': signal.SIGINT}
    for build, needs in ((uwsgi, lambda: None), (debian_uwsgi, needs_debian)):
        for form, options in FORMS_OF_UWSGI.items():
            for event, (more, during, facts) in HAPPENS_TO_UWSGI.items():
                if (form, event) == ('-threads', '-reload'):
                    continue  # without us too: a worker's threads now and then wait for each other for ever
                yield (
                    build.__name__ + form + event,
                    Case(build(*options, *more), during, needs=needs, **interrupt, **facts),
                )
        few = ('--cheaper', '1', '--cheaper-initial', '1', '-p', '3')
        yield f'{build.__name__}-cheaper', Case(build(*few), flood, at_first=1, needs=needs, **interrupt)
        command = daemon(build('--daemonize', '/dev/null', '--vacuum'), '--pidfile')
        yield f'{build.__name__}-daemon', Case(command, service=True, needs=needs, **interrupt)
    for event, (more, during, facts) in HAPPENS_TO_UWSGI.items():
        if not facts.get('embedded'):
            command = uwsgi_for_nobody(*more)
            yield (
                f'uwsgi-nobody{event}',
                Case(command, during, needs=needs_another_user, other_user=True, **interrupt, **facts),
            )


CASES = dict([*gunicorns(), *uwsgis()])
assert set(CASES) >= OFTEN, OFTEN - set(CASES)
