"""What holds for every test: waiting threads of torch sleep, as they do in a run, so that a busy machine stays usable; a busy
machine's pauses are nobody's fault; children take interrupts, also when a shell started us in the background without them."""

import os
import signal

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: libgomp reads it once
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
