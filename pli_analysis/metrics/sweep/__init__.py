"""Studies of `pli-train sweep`: trials, best strategies, confirmation, parameter importance."""
