# Put before everything else on PYTHONPATH by `profilomatic run`: it gives way to the user's own sitecustomize, which it
# shadows, and then switches profiling on. It is read by whatever Python runs under the command, so it keeps to what
# Python 2.7 understands, and it never raises for reasons of its own.

import os
import sys


def _chain():
    """Run the sitecustomize that stands behind this one on sys.path, if any, under its own name."""
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [p for p in sys.path if os.path.abspath(p or os.curdir) != here]
    mine = sys.modules.pop('sitecustomize', None)
    try:
        if sys.version_info[0] >= 3:
            from importlib.machinery import PathFinder
            from importlib.util import module_from_spec

            spec = PathFinder.find_spec('sitecustomize', rest)
            if spec is None or spec.loader is None:
                return
            module = module_from_spec(spec)
            sys.modules['sitecustomize'] = module
            spec.loader.exec_module(module)
        else:
            import imp

            try:
                found = imp.find_module('sitecustomize', rest)
            except ImportError:
                return
            try:
                imp.load_module('sitecustomize', *found)
            finally:
                if found[0]:
                    found[0].close()
    finally:
        # `import sitecustomize` of the interpreter's site module must find something there.
        if mine is not None:
            sys.modules.setdefault('sitecustomize', mine)


def _say(text):
    if not os.environ.get('PROFILOMATIC_TOLD'):
        os.environ['PROFILOMATIC_TOLD'] = '1'
        try:
            sys.stderr.write('profilomatic: %s\n' % text)
        except Exception:
            pass


def _start():
    if os.environ.get('PROFILOMATIC_ENABLED') != '1':
        return
    try:
        if sys.version_info < (3, 8):
            _say('cannot profile: Python %d.%d is too old; the application runs on without it' % sys.version_info[:2])
        else:
            __import__('profilomatic.auto')
    except Exception:
        _say('cannot profile: %r; the application runs on without it' % (sys.exc_info()[1],))


try:
    _chain()
finally:
    _start()
