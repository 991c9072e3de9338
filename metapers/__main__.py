"""``python -m metapers COMMAND``."""

from metapers.command import main

if __name__ == "__main__":
    main()
