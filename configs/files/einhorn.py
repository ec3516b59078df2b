import os
import selectors
import socket

listeners = [socket.socket(fileno=int(os.environ["EINHORN_FD_%d" % i])) for i in range(int(os.environ["EINHORN_FD_COUNT"]))]
assert [l.fileno() for l in listeners] == [int(n) for n in os.environ["EINHORN_FDS"].split()]
ready = selectors.DefaultSelector()
for listener in listeners:
    ready.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        client, _ = key.fileobj.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\neinhorn\n")
