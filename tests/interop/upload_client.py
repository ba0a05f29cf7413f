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
import time
import uuid

import msgpack
import pika
import wire
from pika.compat import long

TIMEOUT = 10.0
# A side that has sent nothing for so long sends a probe.
PROBE_AFTER = 10.0
# The most bytes of a message with several items.
MAX_ITEMS = 64 * 1024

TYPES = (wire.OPEN, wire.ITEM, wire.ITEMS, wire.CREDIT, wire.STOP, wire.PROBE)


class Broken(Exception):
    """The server has broken the rules of streams."""


def say(line):
    print(line, flush=True)


class Upload:
    def __init__(self, channel, content_type, count, last, window):
        self.channel = channel
        self.content_type = content_type
        self.count = count
        # Behind the last number: the empty text for an end, `+` for nothing, and `!` for a cancellation.
        self.last = last
        self.sent = 0
        self.credit = 0
        # The end was sent, or the method reads no more.
        self.is_over = False
        self.window = window
        self.granted = window
        self.received = 0
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
            message_id=f"{self.run}-{self.sent}",
        )
        self.channel.basic_publish("", self.server_queue, body, properties, mandatory=True)
        self.sent_at = time.monotonic()

    def cancel(self):
        if self.server_queue is None:
            return
        properties = pika.BasicProperties(type=wire.CANCEL, reply_to=self.reply_queue, expiration="600000")
        body = msgpack.packb([self.call_id])
        self.channel.basic_publish("", self.server_queue, body, properties)

    def send(self):
        """Sends the numbers for which there is credit, and then the end. Gives whether the call is cancelled."""
        if self.is_over:
            return False
        while self.sent < min(self.count, self.credit):
            items, size = [], 0
            while self.sent + len(items) < min(self.count, self.credit) and size < MAX_ITEMS // 2:
                items.append(wire.encode(self.content_type, self.sent + len(items)))
                size += len(items[-1]) + 5
            if len(items) == 1:
                self.tell(wire.ITEM, items[0])
            else:
                self.tell(wire.ITEMS, msgpack.packb(items, use_bin_type=True))
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

    def check(self, message_id):
        """Each message has the run of the first one, and the number of the items before it."""
        run, _, number = message_id.rpartition("-")
        self.run = self.run or run
        if run != self.run or number != str(self.received):
            raise Broken(f"{message_id} after {self.received} items of {self.run}")

    def read(self, items):
        if self.received + len(items) > self.granted:
            raise Broken("more items than allowed")
        for item in items:
            self.received += 1
            say(f"item {json.dumps(wire.decode(self.content_type, item))}")
        # Half of the window was read.
        if self.granted - self.received <= self.window // 2:
            self.granted = self.received + self.window
            self.tell(wire.CREDIT, msgpack.packb(self.granted))

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
        elif properties.type == wire.ITEM:
            self.read([body])
        elif properties.type == wire.ITEMS:
            self.read(msgpack.unpackb(body))
        return False

    def outcome(self):
        """The end of the call as text."""
        for _, properties, body in self.channel.consume(self.reply_queue, auto_ack=True, inactivity_timeout=0.1):
            if self.is_lost:
                return "error unavailable disconnected"
            if properties is None:
                if self.server_queue and time.monotonic() - self.sent_at >= PROBE_AFTER:
                    self.tell(wire.PROBE)
            elif properties.correlation_id != self.call_id:
                continue
            elif properties.type not in TYPES:
                return self.ended(properties, body)
            elif self.on_message(properties, body):
                self.cancel()
                return "cancelled"
        return None

    def ended(self, properties, body):
        headers = properties.headers or {}
        content_type = properties.content_type or self.content_type
        status = headers.get(wire.STATUS)
        if status in (None, "ok", "application"):
            self.check(properties.message_id)
            value = json.dumps(wire.decode(content_type, body))
            if status != "application":
                return f"reply {value}"
            return f"error application {headers.get('rpc-message', '')} {value}"
        return f"error {status} {headers.get('rpc-message', '')}{wire.hints(headers)}"


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
