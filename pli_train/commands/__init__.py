"""One file per command of `pli-train`."""
