"""Proxies in front of the lab's servers, which break any call to them."""
