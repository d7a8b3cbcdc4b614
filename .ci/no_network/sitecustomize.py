"""On PYTHONPATH, refuses every connection of this Python process and says where it was to go."""

import sys

LOCAL_FAMILIES = (str, bytes)  # addresses of sockets in the file system


def _refuse(event, arguments):
    if event == "socket.connect" and not isinstance(arguments[1], LOCAL_FAMILIES):
        raise ConnectionRefusedError(f"no network here: {arguments[1]}")
    if event == "socket.getaddrinfo":
        raise ConnectionRefusedError(f"no network here: {arguments[0]}")


sys.addaudithook(_refuse)
