"""Have each process of a run print its Python stacks when it is asked to by a signal (attempt/stacks.py)."""

import faulthandler
import sys

from experiments.variables import STACK_SIGNAL

if sys.platform != "win32":
    faulthandler.register(STACK_SIGNAL, all_threads=True, chain=False)
