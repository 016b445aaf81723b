"""Having something done right after a module was imported, by whoever imports it, now or later.

A finder at the head of ``sys.meta_path`` finds nothing itself: when one of the modules that were asked for is
imported, it lets the others find it and has the patch run right after the module's own code. Modules that are
loaded already are patched at once.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from ._tell import tell

Patch = Callable[[Any], None]

_patches: Dict[str, Patch] = {}
#: Asked for modules whose names are known only when they are imported (uWSGI's).
lookups: List[Callable[[str], Optional[Patch]]] = []


def after_import(patches: Mapping[str, Patch]) -> None:
    """Have ``patches[name](module)`` run when that module has been imported. A name that was asked for already is
    passed over. A patch that fails is told, and the import goes on."""
    new = {name: patch for name, patch in patches.items() if name not in _patches}
    _patches.update(new)
    for name, patch in new.items():
        module = sys.modules.get(name)
        # One that is being imported at this moment is not whole yet, and there is no later moment to wait for.
        if module is not None and not getattr(getattr(module, '__spec__', None), '_initializing', False):
            _run(patch, module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def run_after_import(spec: Any, patch: Patch) -> Any:
    """Have ``patch(module)`` run right after the code of the module that `spec` finds. The loader keeps its
    type, since others ask it for sources and resources."""
    loader = spec.loader
    if loader is None or isinstance(loader, type) or not hasattr(loader, 'exec_module'):
        return spec
    original = loader.exec_module

    def exec_module(module: Any) -> None:
        original(module)
        if module.__name__ == spec.name:  # an importer of zip files is one loader for many modules
            _run(patch, module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass
    return spec


def _run(patch: Patch, module: Any) -> None:
    try:
        patch(module)
    except Exception as error:
        tell('%s is not the version I know, what it does is not profiled in full: %r' % (module.__name__, error))


def _patch_for(name: str) -> Optional[Patch]:
    patch = _patches.get(name)
    if patch is not None:
        return patch
    for lookup in lookups:
        patch = lookup(name)
        if patch is not None:
            return patch
    return None


class _Finder:
    def __init__(self) -> None:
        self._searching: Set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        patch = _patch_for(name)
        if patch is None or name in self._searching:
            return None
        self._searching.add(name)
        try:
            for finder in list(sys.meta_path):
                find_spec = None if finder is self else getattr(finder, 'find_spec', None)
                spec = None if find_spec is None else find_spec(name, path, target)
                if spec is not None:
                    return run_after_import(spec, patch)
            return None
        finally:
            self._searching.discard(name)
