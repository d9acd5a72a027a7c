"""`python -m bench`."""

from bench.step import main

if __name__ == "__main__":
    main()
