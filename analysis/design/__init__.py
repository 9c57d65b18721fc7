"""Which runs belong together: factors, arms, ablations, and the files of sweeps/ they belong to."""
