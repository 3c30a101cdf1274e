"""What holds for every test: waiting threads of torch sleep, as they do in a run, so that a busy machine stays usable; and a
busy machine's pauses are nobody's fault."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: libgomp reads it once
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")
