"""Serves streams to Lepus clients: `count`, `gone`, `forever` and `quiet`, in the codec of each request.

    stream_server.py QUEUE

Prints a line for each stream that a client cancels, or whose client is gone, with the number of items that were sent.
"""

import itertools
import sys
import time
import uuid

import msgpack
import pika
import wire

# A side that has sent nothing for so long sends a probe.
PROBE_AFTER = 10.0
# The most bytes of a message with several items.
MAX_ITEMS = 64 * 1024


class Gone(Exception):
    """The method's own error."""

    def __init__(self, after):
        self.after = after


def count(to):
    yield from range(to)


def gone(after):
    yield from range(after)
    raise Gone(after)


def forever():
    yield from itertools.count()


def quiet():
    """Has no item and no end."""
    while True:
        yield None


METHODS = {"count": count, "gone": gone, "forever": forever, "quiet": quiet}


class Stream:
    def __init__(self, server, request, items):
        self.server = server
        self.reply_to = request.reply_to
        self.correlation_id = request.correlation_id
        self.content_type = request.content_type
        self.method = request.type
        self.run = uuid.uuid4().hex
        self.credit = int(request.headers[wire.STREAM])
        self.sent = 0
        self.sent_at = None
        self.items = items

    def message_id(self):
        return f"{self.run}-{self.sent}"

    def tell(self, kind, body=b""):
        properties = pika.BasicProperties(
            type=kind,
            correlation_id=self.correlation_id,
            reply_to=self.server.own_queue,
            message_id=self.message_id(),
        )
        self.server.channel.basic_publish("", self.reply_to, body, properties, mandatory=True)
        self.sent_at = time.monotonic()

    def end(self, headers=None, body=b""):
        properties = pika.BasicProperties(
            correlation_id=self.correlation_id, message_id=self.message_id(), headers=headers
        )
        self.server.channel.basic_publish("", self.reply_to, body, properties, mandatory=True)
        self.server.forget(self)

    def send(self):
        """Sends items for as long as there is credit. Items that are ready share a message."""
        while self.sent < self.credit:
            items, size, end = [], 0, None
            while self.sent + len(items) < self.credit and size < MAX_ITEMS // 2:
                try:
                    item = next(self.items)
                except StopIteration:
                    end = (None, wire.encode(self.content_type, None))
                    break
                except Gone as error:
                    body = wire.encode(self.content_type, {"after": error.after})
                    end = ({wire.STATUS: "application", "rpc-message": "gone"}, body)
                    break
                if item is None:
                    break
                items.append(wire.encode(self.content_type, item))
                size += len(items[-1]) + 5
            if len(items) == 1:
                self.tell(wire.ITEM, items[0])
            elif items:
                self.tell(wire.ITEMS, msgpack.packb(items, use_bin_type=True))
            self.sent += len(items)
            if end:
                return self.end(*end)
            if not items:
                break
        if self.sent_at is None:
            # Without an item, so that the client knows that it is open.
            self.tell(wire.OPEN)
        return None


class Server:
    def __init__(self, connection, queue):
        self.connection = connection
        self.channel = connection.channel()
        self.own_queue = f"lepus.stream.{uuid.uuid4().hex}"
        self.streams = {}
        self.channel.add_on_return_callback(self.on_return)
        self.channel.queue_declare(self.own_queue, exclusive=True)
        self.channel.basic_consume(self.own_queue, self.on_message, auto_ack=True)
        self.channel.queue_declare(queue, durable=True)
        self.channel.basic_consume(queue, self.on_request)

    def on_request(self, channel, delivery, request, body):
        headers = request.headers or {}
        method = METHODS.get(request.type)
        if method is None:
            status = ("unimplemented", f"no method {request.type}")
        elif wire.STREAM not in headers:
            status = ("failed_precondition", f"{request.type} returns a stream")
        elif delivery.redelivered:
            # It may have been open before, and items of it may have been read.
            status = ("aborted", "the server of the stream is gone")
        else:
            arguments = wire.decode(request.content_type, body)
            items = method(**arguments) if isinstance(arguments, dict) else method(*arguments)
            stream = Stream(self, request, items)
            self.streams[(stream.reply_to, stream.correlation_id)] = stream
            # Before the first item: a stream may be longer than the broker waits for this.
            channel.basic_ack(delivery.delivery_tag)
            return stream.send()
        self.refuse(request, *status)
        channel.basic_ack(delivery.delivery_tag)
        return None

    def refuse(self, request, status, message):
        properties = pika.BasicProperties(
            correlation_id=request.correlation_id,
            headers={wire.STATUS: status, "rpc-message": message},
        )
        self.channel.basic_publish("", request.reply_to, b"", properties)

    def on_message(self, channel, delivery, properties, body):
        """A message of a client to the queue of streams."""
        if properties.type == wire.CANCEL:
            for call_id in msgpack.unpackb(body):
                call_id = call_id.decode() if isinstance(call_id, bytes) else call_id
                self.give_up((properties.reply_to, call_id), "cancelled")
            return
        stream = self.streams.get((properties.reply_to, properties.correlation_id))
        if stream is None:
            # The end may be on its way to a client that has sent credit.
            if properties.type == wire.PROBE:
                self.refuse(properties, "aborted", "no such stream")
        elif properties.type == wire.CREDIT and properties.message_id == f"{stream.run}-0":
            total = msgpack.unpackb(body)
            if total > stream.credit:
                stream.credit = total
                stream.send()

    def on_return(self, channel, method, properties, body):
        self.give_up((method.routing_key, properties.correlation_id), "lost")

    def give_up(self, key, how):
        stream = self.streams.pop(key, None)
        if stream:
            print(f" [x] {how} {stream.method} after {stream.sent} items", flush=True)

    def forget(self, stream):
        self.streams.pop((stream.reply_to, stream.correlation_id), None)

    def run(self):
        while True:
            self.connection.process_data_events(time_limit=1)
            for stream in list(self.streams.values()):
                if time.monotonic() - stream.sent_at >= PROBE_AFTER:
                    stream.tell(wire.PROBE)


queue = sys.argv[1]
server = Server(wire.connect(), queue)
print(f" [*] Serving {queue}", flush=True)
try:
    server.run()
except KeyboardInterrupt:
    pass
