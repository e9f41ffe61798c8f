"""Run `pli-train` as `python -m pli_train`."""

from pli_train.cli import main

if __name__ == "__main__":
    main()
