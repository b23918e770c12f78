"""`python -m castrayd` is `castrayd`."""

from castrayd.cli.castrayd import main

if __name__ == "__main__":
    main()
