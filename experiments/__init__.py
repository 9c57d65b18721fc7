"""R1-Zero ablations on veRL: compose, plan, launch and record training runs."""
