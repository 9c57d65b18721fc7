"""Tasks of the package reasoning-gym: its problems, and its scores as our reward."""
