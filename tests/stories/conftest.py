"""The stories' own files are no tests of ours: some of them are tests of a user's."""

collect_ignore_glob = ["*/*"]
