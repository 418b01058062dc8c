"""Talking to one's own running peer: where it listens, who may, and a client. Needs neither torch nor hivemind."""
