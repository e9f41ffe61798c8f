"""Disturbance: what each growth event did to the loss and to the layers."""
