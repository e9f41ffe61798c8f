"""Models: build, load safely, resize, pad, compile, count FLOPs."""
