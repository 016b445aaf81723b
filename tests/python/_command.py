"""The command `profilomatic` as it was built."""

import os
import subprocess
from pathlib import Path

BUILD = Path(os.environ.get('POM_BUILD', Path(__file__).resolve().parents[2] / 'build'))
COMMAND = BUILD / 'bin' / 'profilomatic'


def profilomatic(*arguments, **options):
    options.setdefault('timeout', 60)
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, **options)
