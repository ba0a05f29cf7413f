"""Serves streams to Lepus clients: `count`, `gone`, `forever` and `quiet`, in the codec of each request.

    stream_server.py QUEUE

Prints a line for each stream that a client cancels, or whose client is gone, with the number of items that were sent.
"""

import itertools
import sys

import msgpack
import wire
from streams import MAX_ITEMS, Served, Server, call, pack, serve


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


class Stream(Served):
    def __init__(self, server, request, items):
        super().__init__(server, request)
        self.items = items

    def progress(self):
        return f"{self.sent} items"

    def on_message(self, properties, body):
        if properties.type == wire.CREDIT and properties.message_id == f"{self.run}-0":
            total = msgpack.unpackb(body)
            if total > self.credit:
                self.credit = total
                self.send()

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
            if items:
                self.tell(*pack(items))
            self.sent += len(items)
            if end:
                return self.end(*end)
            if not items:
                break
        if self.sent_at is None:
            # Without an item, so that the client knows that it is open.
            self.tell(wire.OPEN)
        return None


class Streams(Server):
    def on_request(self, channel, delivery, request, body):
        method = METHODS.get(request.type)
        if not self.opens(method, delivery, request, "returns"):
            channel.basic_ack(delivery.delivery_tag)
            return
        stream = Stream(self, request, call(method, request, body))
        self.streams[stream.key()] = stream
        # Before the first item: a stream may be longer than the broker waits for this.
        channel.basic_ack(delivery.delivery_tag)
        stream.send()


queue = sys.argv[1]
serve(Streams(wire.connect(), queue), queue)
