"""Calls a method of a Lepus service that takes a stream, and sends it the numbers from 0.

    upload_client.py QUEUE json|msgpack METHOD ARGUMENTS COUNT [WINDOW]

ARGUMENTS is JSON: a map by name, or an array by position. COUNT numbers are sent; `COUNT+` leaves the stream open behind
them, and `COUNT!` cancels the call. WINDOW is how many items of an answer may be on their way, for a method that returns a
stream as well. Prints `waits after N` when there is no credit for more, `ended after N`, `stopped after N` when the method
reads no more, and `item JSON` for each item of the answer. The last line is `reply JSON`, `error CODE MESSAGE`, for the
method's own error `error application MESSAGE JSON`, or `cancelled`.
"""

import json
import sys

import msgpack
import wire
from streams import MAX_ITEMS, Broken, Caller, pack, unpack

TYPES = (wire.OPEN, wire.ITEM, wire.ITEMS, wire.CREDIT, wire.STOP, wire.PROBE)


def say(line):
    print(line, flush=True)


class Upload(Caller):
    def __init__(self, channel, content_type, count, last, window):
        super().__init__(channel, content_type, window)
        self.count = count
        # Behind the last number: the empty text for an end, `+` for nothing, and `!` for a cancellation.
        self.last = last
        self.credit = 0
        # The end was sent, or the method reads no more.
        self.is_over = False

    def send(self):
        """Sends the numbers for which there is credit, and then the end. Gives whether the call is cancelled."""
        if self.is_over:
            return False
        while self.sent < min(self.count, self.credit):
            items, size = [], 0
            while self.sent + len(items) < min(self.count, self.credit) and size < MAX_ITEMS // 2:
                items.append(wire.encode(self.content_type, self.sent + len(items)))
                size += len(items[-1]) + 5
            self.tell(*pack(items))
            self.sent += len(items)
        if self.sent < self.count:
            say(f"waits after {self.sent}")
        elif self.last == "!":
            return True
        elif self.last == "":
            self.tell(wire.END)
            self.is_over = True
            say(f"ended after {self.sent}")
        return False

    def on_message(self, properties, body):
        """Gives whether the call is cancelled."""
        is_first = self.run is None
        self.check(properties.message_id)
        self.server_queue = properties.reply_to
        if is_first != (properties.type == wire.OPEN) or (is_first and not body):
            raise Broken("the method takes no stream")
        if properties.type == wire.OPEN:
            self.credit = msgpack.unpackb(body)
            return self.send()
        if properties.type == wire.CREDIT:
            total = msgpack.unpackb(body)
            if total > self.credit:
                self.credit = total
                return self.send()
        elif properties.type == wire.STOP:
            self.is_over = True
            say(f"stopped after {self.sent}")
        elif properties.type in (wire.ITEM, wire.ITEMS):
            for item in self.accept(unpack(properties.type, body)):
                say(f"item {json.dumps(item)}")
        return False

    def outcome(self):
        """The end of the call as text."""
        for properties, body in self.messages():
            if properties.type not in TYPES:
                return self.ended(properties, body)
            if self.on_message(properties, body):
                self.cancel()
                return "cancelled"
        return "error unavailable disconnected"

    def ended(self, properties, body):
        status = (properties.headers or {}).get(wire.STATUS)
        if status in (None, "ok", "application"):
            self.check(properties.message_id)
        error = self.error(properties, body)
        if error:
            return error
        return f"reply {json.dumps(wire.decode(properties.content_type or self.content_type, body))}"


queue, codec, method, arguments, count = sys.argv[1:6]
window = int(sys.argv[6]) if len(sys.argv) > 6 else 1
number = count.rstrip("+!")
connection = wire.connect()
upload = Upload(connection.channel(), f"application/{codec}", int(number), count[len(number) :], window)
upload.request(queue, method, json.loads(arguments))
try:
    say(upload.outcome())
except Broken as broken:
    upload.cancel()
    say(f"error data_loss {broken}")
connection.close()
