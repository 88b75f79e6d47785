"""One run of the server of a deployment: a command, its processes, its log, its end."""
