"""What holds for every test: waiting threads of torch sleep, as they do in a run, so that a busy machine stays usable."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: libgomp reads it once
