# A server of asyncio. Its loop watches the datagram socket, by epoll, before that is bound.
import asyncio
import os
import socket


def answer(data):
    if data.startswith(b"q"):
        os._exit(1)
    return data


async def serve(reader, writer):
    writer.write(answer(await reader.read(64)))
    await writer.drain()
    writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, client):
        self.transport.sendto(answer(data), client)


async def main():
    loop = asyncio.get_running_loop()
    datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    await loop.create_datagram_endpoint(Datagrams, sock=datagram)
    await asyncio.sleep(0)
    datagram.bind(("::", 5000))
    stream = await asyncio.start_server(serve, port=5000)
    await asyncio.start_unix_server(serve, "/run/s")
    await stream.serve_forever()


asyncio.run(main())
