"""What else may happen in the process: forks, limits, other hands on our descriptor, damage, other interpreters."""

import ctypes
import gc
import os
import resource
import sys
import time

from . import harness
from .chains import Chains, leaf_rounds, nested_alternating
from .harness import Sampled, base_of, oracle, sample


@oracle
def damage():
    """Random words in what is copied: nothing crashes or hangs, and right stacks still come."""
    chains = Chains(12, leaf_rounds(5), True)
    for much in (30, 300, 1000):
        sample(chains.run, 20_000, 0, damage=much)
    sample(chains.run, 2000).is_possible(chains.paths, 0.005)


def in_child(work):
    """Run work() after a fork that Python does not hear of, as uWSGI makes it; the exit status of the child."""
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        status = 1
        try:
            harness.probe.forked()
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@oracle
def fork():
    """The child of a fork, also of one that Python was not told of, is read like any process."""
    probe = harness.probe
    probe.threads()
    chains = Chains(3, leaf_rounds(100), True)

    def work():
        got = sample(chains.run, 1000)
        got.is_possible(chains.paths, 0.005)
        got.is_complete(0.01)
        assert os.getpid() in [tid for tid, _ in probe.threads()]

    assert in_child(work) == 0
    pid = os.fork()
    if pid == 0:
        probe.forked()
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    work()


def descriptors():
    links = {}
    for fd in os.listdir('/proc/self/fd'):
        try:
            links[os.readlink(f'/proc/self/fd/{fd}')] = int(fd)
        except OSError:
            pass
    return links


@oracle
def without_memfd():
    """With a limit on file sizes the reader copies by process_vm_readv, and no signal comes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    harness.probe.check()
    nested_alternating()
    assert not any('pom-scratch' in link for link in descriptors())


@oracle
def stolen_descriptor():
    """The application closes our descriptor, or puts a file of its own there: that file is never written to."""
    import tempfile

    probe = harness.probe
    work = Chains(3, leaf_rounds(100), True).run
    sample(work, 100)
    for steal in (True, False):
        ours = [fd for link, fd in descriptors().items() if 'pom-scratch' in link]
        assert len(ours) == 1 and ours[0] >= 32, descriptors()
        with tempfile.TemporaryFile() as file:
            probe.start(50)
            work()
            if steal:
                os.dup2(file.fileno(), ours[0])
            else:
                os.close(ours[0])
            end = time.monotonic() + harness.SECONDS_MOST
            while probe.reads() < 1000 and time.monotonic() < end:
                work()
            got = Sampled(probe.stop(), base_of(sys._getframe()))
            assert os.fstat(file.fileno()).st_size == 0
            assert got.reads >= 1000 and got.unreadable < 5, got.told
            if steal:
                os.close(ours[0])


@oracle
def sub_interpreter():
    """Threads of an interpreter that shares the GIL are listed, and its codes' deaths are told."""
    probe = harness.probe
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        import _interpreters as interpreters
    try:
        other = interpreters.create('legacy')
    except (TypeError, ValueError):
        other = interpreters.create(isolated=False)
    listed = len(probe.threads())
    interpreters.run_string(other, 'import sys')
    before = probe.deaths()
    interpreters.run_string(other, 'for i in range(50): exec(compile("def f(): pass", "x", "exec"), {})')
    assert probe.deaths() >= before + 50
    interpreters.destroy(other)
    assert listed in (1, 2)
    assert len(probe.threads()) == 1


@oracle(check=False)
def check():
    """The start-up check passes, may be asked again, and leaves the collector of garbage as it was."""
    harness.probe.check()
    harness.probe.check()
    assert gc.isenabled()
    gc.disable()
    harness.probe.check()
    assert not gc.isenabled()
