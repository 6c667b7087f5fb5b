"""What decisions ask of a URL, worked out once for those that come again."""

from __future__ import annotations

from typing import Any

__all__ = ["KnownUrl", "KnownUrls"]

# A crawler must not grow memory without bound.
_MAX_URLS = 1024


class KnownUrl:
    """A URL, and what is asked of it for each request.

    Attributes:
        url: The URL; nobody changes one.
        key: Scheme and authority.
        scheme: `http`, for one.
        authority: As it stands in Host.
        target: Path and query.
    """

    __slots__ = ("authority", "key", "scheme", "target", "url")

    def __init__(self, url: Any) -> None:
        self.url = url
        self.scheme: str = url.scheme
        netloc: bytes = url.netloc
        self.key = (self.scheme, netloc)
        self.authority = netloc.decode("latin-1")
        self.target: str = url.raw_path.decode("ascii")


class KnownUrls:
    """Finds what is known of a URL by the object itself, which is as good as its text and quicker."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[int, KnownUrl] = {}

    def remember(self, url: Any) -> None:
        """This URL will come again, as the same object."""
        if len(self._by_id) >= _MAX_URLS:
            self._by_id = {}  # Another thread may be reading the old one.
        self._by_id[id(url)] = KnownUrl(url)

    def find(self, url: Any) -> KnownUrl:
        """What is known of a URL, remembered or not."""
        known = self._by_id.get(id(url))
        return known if known is not None and known.url is url else KnownUrl(url)
