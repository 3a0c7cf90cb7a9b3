"""Browsers as runtimes: a server of one page, the devices that open it, and what is measured on them."""
