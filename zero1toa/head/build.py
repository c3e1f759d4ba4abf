"""``python -m zero1toa.head.build`` makes the embedded head's data file; the work is in :mod:`zero1toa.head.sculpt`."""

from zero1toa.head.sculpt.command import main

if __name__ == "__main__":
    main()
