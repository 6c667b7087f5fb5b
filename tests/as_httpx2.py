"""`pytest -p tests.as_httpx2`: who imports httpx gets httpx2, so that what is proven of one is proven of the other."""

import httpx2

httpx2.alias_httpx()
