"""Workers of another user in root's directory get a pool of their own, and nothing else."""

import json
import os
import pwd
import socket
import stat

import pytest
from harness import VENV, Served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become another user')


@pytest.fixture
def place(tmp_path):
    served = Served(tmp_path, [VENV / 'python', '-c', ''])
    served.place.chmod(0o711)
    yield served.place
    served.close()


def as_nobody(place, *requests):
    """What the aggregator answers to nobody, and whether nobody can make something in the directory."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(10)
                s.connect(str(place / 'control'))
                lines = s.makefile()
                for request in requests:
                    s.sendall(json.dumps(request).encode() + b'\n')
                    said.append(json.loads(lines.readline()))
            for attempt in (lambda: os.mkdir(place / '65534-x'), lambda: os.listdir(place)):
                try:
                    attempt()
                    said.append('done')
                except PermissionError:
                    said.append('denied')
        except BaseException as error:
            said.append(repr(error))
        os.write(writable, json.dumps(said).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answers:
        said = json.load(answers)
    os.waitpid(child, 0)
    return said


def test_another_user_gets_a_pool_whose_folder_is_not_its_own(place):
    assert as_nobody(place, {'verb': 'pool', 'name': '65534-web'}) == [{'kind': 'pool'}, 'denied', 'denied']
    nobody = pwd.getpwnam('nobody').pw_uid
    for folder, owner, mode in (('', 0, 0o711), ('rings', nobody, 0o700), ('requests', nobody, 0o700)):
        st = (place / '65534-web' / folder).stat()
        assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (owner, mode), folder
    # It is made again without harm, and no more of them than there may be.
    more = [{'verb': 'pool', 'name': f'65534-web{n}'} for n in ('', *range(8))]
    said = as_nobody(place, *more)
    assert said[:8] == [{'kind': 'pool'}] * 8 and 'error' in said[8]


def test_another_user_is_told_nothing_of_others(place):
    said = as_nobody(
        place,
        {'verb': 'status'},
        {'verb': 'report'},
        {'verb': 'subscribe', 'pid': 1},
        {'verb': 'pool', 'name': '0-web'},
        {'verb': 'pool', 'name': '65534-../0-web'},
        {'verb': 'pool', 'name': '65534-web/../../x'},
        {'verb': 'pool'},
    )
    assert len(said) == 9 and all('error' in answer for answer in said[:7]), said
    assert [entry.name for entry in place.iterdir() if entry.is_dir()] == []
