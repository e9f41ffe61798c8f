"""One file per command of `pli-analyze`: options and output. The computation is in `metrics`."""
