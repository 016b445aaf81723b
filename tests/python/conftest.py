"""For all tests of this folder: an environment that does not depend on who started them."""

import signal

# A shell without job control starts what it puts behind an `&` with SIGINT ignored, and so would every server be
# that a test wants to interrupt. A handler of ours becomes the default again in whatever is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
