"""Stories: what five kinds of users do in their first hour, with the documentation alone.

Each folder is one user's: the files that such a user has, and `story.py`, which lives through it step by step. `make
stories` tells each in a virtual environment of its own, from the built wheel; `make test` tells the same ones here.
"""
