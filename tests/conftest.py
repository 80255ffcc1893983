"""What all tests share: how hard Hypothesis looks, and that no signal is ignored.

`default` keeps the whole suite quick; `HYPOTHESIS_PROFILE=ci` looks longer.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).parents[1] / "build" / "hypothesis")

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)

settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile(
    "ci", deadline=None, max_examples=300, suppress_health_check=_SLOW_IS_FINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Who starts the tests in the background of a shell has SIGINT ignored, and so has all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And who starts them by nohup has SIGHUP ignored.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
