"""Run `pli-analyze` as `python -m pli_analysis`."""

from pli_analysis.cli import main

if __name__ == "__main__":
    main()
