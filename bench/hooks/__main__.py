"""What hooks add to a request, or to an Eliot action, that is not admitted for profiling: ours and other tools'.

    PYTHONPATH=build/python python3 bench/hooks [--blocks 20] [--requests 2000] [KIND...]

Kinds: wsgi, asgi, eliot. For each, every form runs in a process of its own (tools patch things), which calls the bare
application and the hooked one in turn, in blocks, and takes the CPU time of its thread. The processes run one after the
other, all of them in each of three rounds. Printed is the median of what a form adds, its quartiles, and its ratio to
the smallest Python middleware that could be of use (a clock before and after, a count, a header).

OpenTelemetry and ddtrace are installed from PyPI into build/venv-hooks (ddtrace without an agent to send to); both once
as they come and once with every trace sampled out. Bars: ours adds at most 2 us to a WSGI request, 5 us to an ASGI
request, 3 us to an Eliot action. Exit status 1 if one is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
BARS = {'wsgi': 2.0, 'asgi': 5.0, 'eliot': 3.0}
FORMS = {
    'wsgi': ['profilomatic', 'python', 'otel', 'otel-unsampled', 'ddtrace', 'ddtrace-unsampled'],
    'asgi': ['profilomatic', 'python', 'otel', 'otel-unsampled', 'ddtrace', 'ddtrace-unsampled'],
    'eliot': ['profilomatic', 'python'],
}
PACKAGES = [
    'opentelemetry-sdk',
    'opentelemetry-instrumentation-wsgi',
    'opentelemetry-instrumentation-asgi',
    'ddtrace',
    'eliot',
]
QUIET = {
    'DD_INSTRUMENTATION_TELEMETRY_ENABLED': 'false',
    'DD_REMOTE_CONFIGURATION_ENABLED': 'false',
    'DD_TRACE_STARTUP_LOGS': 'false',
    'DD_TRACE_AGENT_URL': 'unix:///nonexistent/agent',
    'DD_API_SECURITY_ENABLED': 'false',
}


def interpreter():
    """The one of build/venv-hooks with what is compared, of this version; and why it lacks something, or None."""
    folder = os.path.join(PROJECT, 'build', 'venv-hooks')
    python = os.path.join(folder, 'bin', 'python')
    if not os.path.exists(python):
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    probe = 'import opentelemetry.instrumentation.asgi, opentelemetry.instrumentation.wsgi, ddtrace, eliot'
    if subprocess.run([python, '-c', probe], capture_output=True, env=dict(os.environ, **QUIET)).returncode == 0:
        return python, None
    done = subprocess.run(
        [python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check', *PACKAGES], capture_output=True, text=True
    )
    return python, None if done.returncode == 0 else (done.stderr.strip().splitlines() or ['pip failed'])[-1]


def measure(python, kind, form, options):
    """Microseconds that the form adds, one figure for each pair of blocks; or why there is none."""
    done = subprocess.run(
        [python, os.path.join(HERE, 'form.py'), kind, form, str(options.blocks), str(options.requests)],
        capture_output=True,
        text=True,
        env=dict(os.environ, **QUIET),
    )
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]
    return json.loads(done.stdout.splitlines()[-1]), None


def report(kind, added, why):
    """Print the table of one kind; True if the bar is met."""
    least = statistics.median(added['python']) if added['python'] else None
    print(f'{kind}: CPU time added, microseconds; median, quartiles, ratio to the smallest Python hook')
    for form in FORMS[kind]:
        if not added[form]:
            print(f'  {form:<18} not measured: {why[form]}')
            continue
        low, middle, high = statistics.quantiles(added[form], n=4)
        ratio = f'{middle / least:6.2f}' if least else '     -'
        print(f'  {form:<18} {middle:7.2f}   {low:7.2f} … {high:7.2f}   {ratio}')
    ours = statistics.median(added['profilomatic']) if added['profilomatic'] else float('inf')
    print(f'  bar: {BARS[kind]:.0f} us: {"met" if ours <= BARS[kind] else "missed"}')
    return ours <= BARS[kind]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--blocks', type=int, default=20)
    parser.add_argument('--requests', type=int, default=2000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('kinds', nargs='*', choices=[[], *FORMS], default=[])
    options = parser.parse_args()
    python, lacking = interpreter()
    if lacking:
        print(f'not everything could be installed: {lacking}')
    met = True
    for kind in options.kinds or FORMS:
        added, why = {form: [] for form in FORMS[kind]}, {}
        for _ in range(options.rounds):
            for form in FORMS[kind]:
                figures, why[form] = measure(python, kind, form, options)
                added[form] += figures or []
        met = report(kind, added, why) and met
    return 0 if met else 1


if __name__ == '__main__':
    sys.exit(main())
