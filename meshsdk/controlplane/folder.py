"""A folder of YAML, watched. What is wrong in one file keeps that file's last good state, and only that.

Theory of operation. Each file has the documents that are *in use*. When files change, they are read, and what they say
now is tried: with all changes at once, and where that brings errors, file by file. A file that brings an error, or that
cannot be read, keeps what is in use of it; the others do not wait for it. As long as nobody could ever get in, since
what may be a policy could not be read, there is no last good state: then files are taken as far as they can be read.

A file that is gone is an edit, too. But one that went when another came which is wrong may have been moved: it stays
until that one is good or gone.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, field

from ..errors import ConfigError
from ..log_lines import logger_of
from .client import ANYBODY, Client
from .documents import Document, Pieces, read_documents
from .files import FileEntry, list_files, shown
from .lines import with_lines
from .state import FolderState, Problem, make_state
from .world import World

__all__ = ["Folder", "FolderState", "Problem", "load"]

logger = logger_of("meshsdk.controlplane")

Documents = tuple[Document, ...]
# The documents of each file that are in use, and what is wrong with others.
_Used = tuple[dict[Path, Documents], tuple[str, ...]]

# Whoever writes all the time keeps others waiting no longer.
_LONGEST_SETTLING_SECONDS = 2.0


class _File(Struct):
    """One file.

    Attributes:
        used: What is in use of it; None where nothing ever was.
        newest: What it says now; None where it cannot be read.
        problem: Why not.
        is_whole: Nothing is wrong with what is in use.
        is_tried_again: It could not be opened, which may pass.
        is_gone: It is not there.
        moved_to: Files that came when it went.
        pieces: What its documents say, by their texts.
    """

    used: Documents | None = None
    newest: Documents | None = None
    problem: str = ""
    is_whole: bool = False
    is_tried_again: bool = False
    is_gone: bool = False
    moved_to: frozenset[Path] = frozenset()
    pieces: Pieces = field(default_factory=dict)

    def take(self, entry: FileEntry) -> bool:
        """Read it. Returns whether it says something else now, or the same on other lines."""
        before = self.newest, self.problem
        try:
            if entry.problem:
                raise ConfigError(shown(entry.path), entry.problem)
            self.newest, self.problem = read_documents(entry.path, self.pieces), ""
            self.is_tried_again = False
        except ConfigError as error:
            self.newest, self.problem = None, str(error)
            self.is_tried_again = isinstance(error.__cause__, OSError)
        if _is_same_text(self.newest, self.used):
            self.newest = self.used
        return not _is_same_text(self.newest, before[0]) or self.problem != before[1]


def load(root: Path, domain: str = "cluster.local") -> FolderState:
    """Read and translate a folder or file.

    Errors do not raise: they stand in the state's problems, and what is wrong is left out.
    """
    folder = Folder(root, domain)
    folder.read()
    return folder.state


def _is_same_text(one: Documents | None, other: Documents | None) -> bool:
    """Whether documents are equal, and stand on the same lines, which problems name."""
    return one == other and (not one or not other or one[0].digest == other[0].digest)


def _are_same(one: _Used, other: _Used) -> bool:
    return (
        one[1] == other[1]
        and one[0].keys() == other[0].keys()
        and all(documents is other[0][path] for path, documents in one[0].items())
    )


def _unread() -> FolderState:
    world = World()
    world.security.broken.append("the folder has not been read yet")
    return FolderState(world=world)


class Folder:
    """Watches a folder by looking at it: names, inodes, times and sizes of its files.

    Args:
        root: The folder, or one file.
        domain: The cluster's DNS domain.
        client: In whose view errors are looked for.
        settle_seconds: How long an edit must be past before it is read: an editor may still be writing, and an empty
            file is a legal configuration.
        logs: Log the problems that are found; not where whoever made it shows them.

    Attributes:
        state: What is in use: of each file its last good state.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        domain: str = "cluster.local",
        client: Client = ANYBODY,
        settle_seconds: float = 0.1,
        logs: bool = True,
    ) -> None:
        self.root = Path(root)
        self._domain = domain
        self._client = client
        self._logs = logs
        self._settle_ns = int(settle_seconds * 1e9)
        self._is_file: bool | None = None
        self._listing: list[FileEntry] | None = None
        self._is_tried_again = False
        self._has_been_open = False
        self._pending: list[FileEntry] = []
        self._pending_since = self._waiting_since = 0.0
        self._files: dict[Path, _File] = {}
        self._made: tuple[_Used, FolderState] | None = None
        self.state = _unread()

    def refresh(self) -> bool:
        """Look, and read again if something changed. Returns whether the resources are others now."""
        before = self.state
        if not self.read():
            return False
        for problem in self.state.problems:
            if self._logs and problem not in before.problems:
                logger.log(logging.ERROR if problem.is_error else logging.WARNING, "%s", problem.text)
        return self.state.version != before.version

    def read(self) -> bool:
        """Look, and read again if something changed. Returns whether it did; logs nothing."""
        listing = list_files(self.root, is_file=self._is_file)
        if self._is_file is None and os.path.exists(self.root):
            self._is_file = not os.path.isdir(self.root)
        if self._listing is not None:
            if listing == self._listing and not self._is_tried_again:
                return False
            if not self._has_settled(listing):
                return False
            listing = self._without_those_being_written(listing)
        if not self._take(listing):
            return False
        self.state = self._with_lines(self._compose())
        self.state.begin_use()
        self._has_been_open |= not self.state.world.security.broken
        return True

    def _with_lines(self, state: FolderState) -> FolderState:
        """With the lines of its problems: last of all, since edits above move what stands below."""
        files = {path: file.newest or file.used or () for path, file in self._files.items()}
        texts = with_lines([problem.text for problem in state.problems], files)
        told = [Problem(text, one.is_error) for text, one in zip(texts, state.problems, strict=True)]
        return dataclasses.replace(state, problems=tuple(told)) if told else state

    def _has_settled(self, listing: list[FileEntry]) -> bool:
        clock = time.monotonic()
        before = set(self._listing or ())
        is_young = any(self._is_young(entry) for entry in set(listing) - before)
        # Some editors put the old file away before they write the new one.
        is_gone = bool({entry.path for entry in before} - {entry.path for entry in listing})
        if not is_young and not is_gone:
            self._waiting_since = 0.0
            return True
        self._waiting_since = self._waiting_since or clock
        # A clock may be wrong, and a file's time be in the future: what stands still has settled, too.
        if listing != self._pending:
            self._pending, self._pending_since = listing, clock
        is_still = clock - self._pending_since >= self._settle_ns / 1e9
        return is_still or clock - self._waiting_since >= _LONGEST_SETTLING_SECONDS

    def _is_young(self, entry: FileEntry) -> bool:
        return time.time_ns() - entry.modified < self._settle_ns

    def _without_those_being_written(self, listing: list[FileEntry]) -> list[FileEntry]:
        """The listing as far as it has settled: the others stand there as they were."""
        if not self._waiting_since:
            return listing
        self._waiting_since = 0.0
        if listing == self._pending and time.monotonic() - self._pending_since >= self._settle_ns / 1e9:
            return listing
        before = {entry.path: entry for entry in self._listing or ()}
        settled = [before.get(entry.path) if self._is_young(entry) else entry for entry in listing]
        return [entry for entry in settled if entry is not None]

    def _take(self, listing: list[FileEntry]) -> bool:
        """Read what is new, and note what is gone. Returns whether there is any of it."""
        before = {entry.path: entry for entry in self._listing or ()}
        came: set[Path] = set()
        has_changed = self._listing is None
        is_tried_again = False
        for entry in listing:
            file = self._files.get(entry.path)
            if file is not None and entry == before.get(entry.path) and not file.is_tried_again:
                continue
            if file is None:
                file = self._files[entry.path] = _File()
                came.add(entry.path)
            has_changed |= file.take(entry)
            is_tried_again |= file.is_tried_again
        # Not before all are read: what stopped in between is read again.
        self._listing, self._is_tried_again = listing, is_tried_again
        listed = {entry.path for entry in listing}
        unknown = [entry.path for entry in listing if entry.is_folder]
        for path, file in self._files.items():
            is_gone = path not in listed and not any(path.is_relative_to(folder) for folder in unknown)
            has_changed |= is_gone is not file.is_gone
            file.moved_to = file.moved_to | came if is_gone and not file.is_gone else file.moved_to
            file.is_gone = is_gone
        return has_changed

    def _compose(self) -> FolderState:
        """The state of what is in use, with as much of the changes as is good."""
        used = {path: file.used for path, file in self._files.items() if file.used is not None and not file.is_gone}
        broken: list[str] = []
        candidates: list[Path] = []
        for path, file in self._files.items():
            if file.is_gone or file.newest is file.used is not None:
                continue
            if file.newest is None:
                if file.used is None and not self._has_been_open:
                    broken.append(file.problem)
            elif file.is_whole or self._has_been_open:
                candidates.append(path)
            else:
                used[path] = file.newest
        state, refused = self._accept(used, candidates, broken)
        wrong = refused.keys() | {path for path, file in self._files.items() if file.problem}
        moved = [path for path, file in self._files.items() if file.is_gone and file.moved_to & wrong]
        if moved:
            used |= {path: self._files[path].used or () for path in moved}
            state = self._state_of(used, broken)
        self._forget_those_gone(moved)
        self._note_use(used, state)
        return self._with_problems(state, refused, broken, moved)

    def _accept(
        self, used: dict[Path, Documents], candidates: list[Path], broken: list[str]
    ) -> tuple[FolderState, dict[Path, list[str]]]:
        """Add to `used` the changes that bring no error; what the others bring."""
        state = self._state_of(used, broken)
        if not candidates:
            return state, {}
        newest = {path: self._files[path].newest or () for path in candidates}
        together = self._state_of({**used, **newest}, broken)
        if set(together.errors) <= set(state.errors):
            used |= newest
            return together, {}
        refused: dict[Path, list[str]] = {}
        waiting, has_grown = candidates, True
        while has_grown:  # One may become good by another.
            has_grown, refused = False, {}
            for path in waiting:
                tried = self._state_of({**used, path: newest[path]}, broken)
                brought = [text for text in tried.errors if text not in state.errors]
                is_partial = self._files[path].used is not None and not self._files[path].is_whole
                is_no_worse = is_partial and len(tried.errors) <= len(state.errors)
                if brought and not (is_no_worse and not tried.world.security.broken):
                    refused[path] = brought
                    continue
                used[path], state, has_grown = newest[path], tried, True
            waiting = list(refused)
        return state, refused

    def _state_of(self, used: dict[Path, Documents], broken: Iterable[str]) -> FolderState:
        """The state of some documents. The last one is kept: an edit is compared with what was before it."""
        of_what = dict(used), tuple(broken)
        if self._made is not None and _are_same(self._made[0], of_what):
            return self._made[1]
        files = [(path, used[path]) for path in sorted(used)]
        before = self._made[1] if self._made is not None else None
        state = make_state(files, self._domain, of_what[1], self._client, before)
        self._made = of_what, state
        return state

    def _forget_those_gone(self, moved: list[Path]) -> None:
        self._files = {path: file for path, file in self._files.items() if not file.is_gone or path in moved}

    def _note_use(self, used: dict[Path, Documents], state: FolderState) -> None:
        for path, documents in used.items():
            file = self._files[path]
            if documents is not file.used:
                name = shown(path)
                file.used = documents
                file.is_whole = not any(text.startswith((f"{name} ", f"{name}.", f"{name}:")) for text in state.errors)

    def _with_problems(
        self, state: FolderState, refused: dict[Path, list[str]], broken: list[str], moved: list[Path]
    ) -> FolderState:
        told: list[Problem] = []
        for path, file in self._files.items():
            texts = [] if file.problem in broken else [file.problem] if file.problem else refused.get(path, [])
            kept = "it is left out" if file.used is None else "what it said before stays in use"
            told += [Problem(f"{text}; {kept}", True) for text in texts]
        told += [
            Problem(f"{shown(path)}: is gone, and may be what is wrong elsewhere; it stays in use", True)
            for path in moved
        ]
        return dataclasses.replace(state, problems=(*told, *state.problems)) if told else state
