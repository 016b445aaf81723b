"""What mypy must find wrong in a program: each such line, and no other."""

import profilomatic

profilomatic.configure(max_overhed=0.02)  # wrong
profilomatic.configure(store_all_logs='perhaps')  # wrong
profilomatic.add_destination(7)  # wrong
profilomatic.action(7)  # wrong
profilomatic.wsgi.wrap(7)  # wrong
profilomatic.nothing  # wrong  # noqa: B018


@profilomatic.profiled('plain')
def plain(a: int) -> int:
    return a


plain('x')  # wrong
