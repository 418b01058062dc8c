"""Bytes between peers: transport, messages, encodings, blobs."""
