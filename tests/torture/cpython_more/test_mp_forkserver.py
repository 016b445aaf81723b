"""CPython's tests of multiprocessing, started by forkserver: not every installation has the module that runs them."""

import unittest

from test import _test_multiprocessing

_test_multiprocessing.install_tests_in_module_dict(globals(), 'forkserver')

if __name__ == '__main__':
    unittest.main()
