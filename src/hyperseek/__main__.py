"""`python -m hyperseek`: the command line."""

from hyperseek.cli import main

if __name__ == "__main__":
    main()
