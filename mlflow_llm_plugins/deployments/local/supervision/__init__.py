"""The process that a deployment is: it starts, watches and replaces the server."""
