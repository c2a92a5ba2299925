#!/usr/bin/env python3
"""An OpenAI-style backend that answers at once: what the peers stand in front of. usage: null_upstream.py PORT

Speaks HTTP/1.1 by hand on asyncio, so that it costs as little as it can.
"""
import asyncio, json, sys

ANSWER = json.dumps({
    "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "null",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "gnip"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
}).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


class Backend(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name == b"content-length":
                    length = int(value)
            if b"transfer-encoding: chunked" in head:
                last = self.buffer.find(b"0\r\n\r\n", end + 4)
                if last < 0:
                    return
                whole = last + 5
            else:
                whole = end + 4 + length
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.transport.write(RESPONSE)


async def main():
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
