"""Who a peer is: its key, and what it signs."""
