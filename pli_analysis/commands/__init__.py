"""The commands of `pli-analyze`, a file each. Reading and reckoning is done elsewhere: here are words and options."""
