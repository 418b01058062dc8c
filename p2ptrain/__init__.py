"""p2ptrain: strangers train one language model together, each a slice of it."""

__version__ = "0.1.0"
