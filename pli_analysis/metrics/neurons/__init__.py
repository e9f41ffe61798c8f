"""Neurons: when the units of FFNs are active, and whether copied units differ from those they were copied from."""
