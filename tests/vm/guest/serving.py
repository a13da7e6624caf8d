# SPDX-License-Identifier: Apache-2.0
"""What functions of the tests have in common that answer at a unix socket."""
import socket


def serve(place, answer):
    """Requests, one after the other, at the socket `place`: `answer` gets what is asked for, such as "/all", and gives the body."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(8)
    while True:
        client, _ = listener.accept()
        request = client.recv(65536)
        if request:  # and not somebody who looks whether it is ready
            body = answer(request.split(b" ", 2)[1].decode())
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        client.close()
