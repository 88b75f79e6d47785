"""The public address of a deployment: bytes between clients and the server that is current."""
