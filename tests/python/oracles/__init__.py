"""Programs whose stacks are known beforehand, each sampled by the probe while it runs.

    python -m oracles FOLDER_OF_PROBE NAME

Each runs in a process of its own and ends with status 0, or with an assertion that says what was seen.

What an assertion rests on: what must never be (a wrong name, a stack of another moment than the one it was read in) is
asserted of every sample; what is allowed to a certain rate, on counts, with what chance adds to them; how often
something is, against what the program itself said it was doing at the instant of each sample. That takes the machine
out of it: a program that had to wait for a core waits in both. None rests on how quick anything is.
"""

from . import calls, chains, codes, coroutines, lines, recursion, surroundings, threads

ORACLES = {
    name: function
    for module in (chains, recursion, coroutines, calls, codes, lines, threads, surroundings)
    for name, function in vars(module).items()
    if getattr(function, 'is_oracle', False)
}
