"""Inserted layers compared with the layers that were there before."""
