"""Which runs belong together: as factors, arms and ablations, and to which file of sweeps/ an ablation belongs."""
