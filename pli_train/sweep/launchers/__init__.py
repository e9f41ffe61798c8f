"""Start the workers of a study: on this machine, through SLURM, or on a Ray cluster."""
