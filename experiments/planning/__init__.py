"""Which runs a command asks for, what is already there, and what the rest will cost."""
