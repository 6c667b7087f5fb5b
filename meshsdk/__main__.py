"""`python -m meshsdk` is the `meshsdk` command."""

from .cli import main

if __name__ == "__main__":
    main()
