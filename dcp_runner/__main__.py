"""`python -m dcp_runner`."""

from dcp_runner.app import main

if __name__ == "__main__":
    main()
