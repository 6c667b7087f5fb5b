"""Asks each address on the pages that leads outside of the repository whether it is there: `make links`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

from .pages import PAGES, REPOSITORY, links_of

__all__: list[str] = []


def main() -> int:
    """Print what does not lead anywhere; 1 if there is any."""
    outside = {
        link
        for page in PAGES
        for link in links_of(page)
        if link.startswith("https://") and not link.startswith((REPOSITORY, "https://raw.githubusercontent.com/"))
    }
    with httpx.Client(follow_redirects=True, timeout=30) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda link: (link, problem_of(client, link)), sorted(outside)))
    problems = [f"{link}: {problem}" for link, problem in found if problem]
    print("\n".join(problems) or f"{len(found)} addresses are there")
    return 1 if problems else 0


def problem_of(client: httpx.Client, link: str) -> str:
    """Why an address leads nowhere; empty where it leads somewhere."""
    try:
        response = client.get(link)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return "" if response.is_success else str(response.status_code)


if __name__ == "__main__":
    sys.exit(main())
