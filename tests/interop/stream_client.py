"""Reads a stream of a Lepus service and prints its items.

    stream_client.py QUEUE json|msgpack METHOD ARGUMENTS WINDOW [TAKE]

WINDOW is how many items may be on their way. ARGUMENTS is JSON: a map by name, or an array by position. Prints
`item JSON` for each item, and then `end`, `error CODE MESSAGE`, or, for the method's own error,
`error application MESSAGE JSON`. With TAKE it cancels the stream after so many items, and prints `cancelled`.
"""

import json
import sys
import time
import uuid

import msgpack
import pika
import wire
from pika.compat import long

TIMEOUT = 10.0
# A side that has sent nothing for so long sends a probe.
PROBE_AFTER = 10.0


class Broken(Exception):
    """The server has broken the rules of streams."""


class Stream:
    def __init__(self, channel, content_type, window):
        self.channel = channel
        self.content_type = content_type
        self.window = window
        self.granted = window
        self.count = 0
        self.run = None
        self.server_queue = None
        self.sent_at = time.monotonic()
        self.is_lost = False
        self.call_id = str(uuid.uuid4())
        self.reply_queue = channel.queue_declare(f"python.{uuid.uuid4()}", exclusive=True).method.queue
        channel.add_on_return_callback(self.on_return)

    def request(self, queue, method, arguments):
        request = pika.BasicProperties(
            reply_to=self.reply_queue,
            correlation_id=self.call_id,
            type=method,
            content_type=self.content_type,
            expiration=str(int(TIMEOUT * 1000)),
            headers={wire.STREAM: long(self.window)},
        )
        body = wire.encode(self.content_type, arguments)
        self.channel.basic_publish("", queue, body, request, mandatory=True)

    def on_return(self, channel, method, properties, body):
        # The queue of the server is gone with its connection, or there is no such service.
        self.is_lost = True

    def tell(self, kind, body=b""):
        """Sends a message about this stream to its server."""
        properties = pika.BasicProperties(
            type=kind,
            correlation_id=self.call_id,
            reply_to=self.reply_queue,
            message_id=f"{self.run}-0",
        )
        self.channel.basic_publish("", self.server_queue, body, properties, mandatory=True)
        self.sent_at = time.monotonic()

    def cancel(self):
        properties = pika.BasicProperties(type=wire.CANCEL, reply_to=self.reply_queue, expiration="600000")
        body = msgpack.packb([self.call_id])
        self.channel.basic_publish("", self.server_queue, body, properties)

    def check(self, message_id):
        """Each message has the run of the first one, and the number of the items before it."""
        run, _, number = message_id.rpartition("-")
        self.run = self.run or run
        if run != self.run or number != str(self.count):
            raise Broken(f"{message_id} after {self.count} items of {self.run}")

    def items(self):
        """The items. Returns the end: the properties and the body of a reply, or `None` if the server is gone."""
        for _, properties, body in self.channel.consume(self.reply_queue, auto_ack=True, inactivity_timeout=0.1):
            if self.is_lost:
                return None
            if properties is None:
                if self.server_queue and time.monotonic() - self.sent_at >= PROBE_AFTER:
                    self.tell(wire.PROBE)
                continue
            if properties.correlation_id != self.call_id:
                continue
            if properties.type not in (wire.OPEN, wire.ITEM, wire.ITEMS, wire.PROBE):
                is_status = wire.STATUS in (properties.headers or {})
                if not is_status:
                    self.check(properties.message_id)
                return properties, body
            self.check(properties.message_id)
            self.server_queue = properties.reply_to
            if properties.type == wire.ITEM:
                items = [body]
            elif properties.type == wire.ITEMS:
                items = msgpack.unpackb(body)
            else:
                items = []
            if self.count + len(items) > self.granted:
                raise Broken("more items than allowed")
            for item in items:
                self.count += 1
                yield wire.decode(self.content_type, item)
            # Half of the window was read.
            if self.granted - self.count <= self.window // 2:
                self.granted = self.count + self.window
                self.tell(wire.CREDIT, msgpack.packb(self.granted))
        return None


def outcome(content_type, end):
    """The end of a stream as text."""
    if end is None:
        return "error unavailable disconnected"
    properties, body = end
    headers = properties.headers or {}
    status = headers.get(wire.STATUS)
    if status is None:
        return "end"
    error = f"error {status} {headers.get('rpc-message', '')}"
    if status == "application":
        error += f" {json.dumps(wire.decode(properties.content_type or content_type, body))}"
    return error + wire.hints(headers)


def read(stream, take):
    items = stream.items()
    while True:
        if stream.count == take:
            stream.cancel()
            return "cancelled"
        try:
            print(f"item {json.dumps(next(items), default=list)}", flush=True)
        except StopIteration as ended:
            return outcome(stream.content_type, ended.value)
        except Broken as broken:
            stream.cancel()
            return f"error data_loss {broken}"


queue, codec, method, arguments, window = sys.argv[1:6]
take = int(sys.argv[6]) if len(sys.argv) > 6 else None
connection = wire.connect()
stream = Stream(connection.channel(), f"application/{codec}", int(window))
stream.request(queue, method, json.loads(arguments))
print(read(stream, take), flush=True)
connection.close()
