"""Stand in for `python` where the fork server runs: ask it for a fork, pass signals on, end as the fork ends.

Run as `python -S -E fork_client.py SOCKET ARGUMENTS...`. To start fast, it imports little: only the standard library.
"""

import json
import os
import signal
import socket
import struct
import sys


def main() -> None:
    """Have the server fork, pass signals on until the fork has ended, and end with its exit code or signal."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(sys.argv[1])
    request = {"argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd()}
    data = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("I", len(data))], [0, 1, 2])
    connection.sendall(data)
    if len(connection.recv(4)) < 4:
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, frame: connection.sendall(struct.pack("i", got)))
    answer = connection.recv(4)
    code = struct.unpack("i", answer)[0] if len(answer) == 4 else 1
    if code < 0:  # ended by a signal: end by the same one
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
