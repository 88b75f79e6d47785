"""What child processes of these tests run."""

from __future__ import annotations

import os
import sys
import time


def echo(connection, arguments):
    while True:
        connection.send((arguments, connection.recv()))


def echo_and_print(connection, arguments):
    print("noise on stdout")
    sys.stdout.flush()
    echo(connection, arguments)


def say_pid_and_compute(connection, arguments):
    connection.send(os.getpid())
    while True:  # no look at the connection
        pass


def fail(connection, arguments):
    raise ValueError(arguments)


def leave(connection, arguments):
    time.sleep(arguments)
    connection.send("last words")


def descriptors(connection, arguments):
    connection.send(sorted(int(name) for name in os.listdir("/proc/self/fd")))
