"""meshsdk."""
