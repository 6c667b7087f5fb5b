"""What each HTTP filter does to a request that comes in; `registry` knows which there are.

The modules have the names of those in `meshsdk.resources.filters`.
"""
