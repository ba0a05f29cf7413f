"""The two ends of a stream, as far as they are the same whichever way its items go."""

import json
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


class Broken(Exception):
    """The other side has broken the rules of streams."""


def pack(items):
    """The type and the body of a message with these items, of which there is one at least."""
    if len(items) == 1:
        return wire.ITEM, items[0]
    return wire.ITEMS, msgpack.packb(items, use_bin_type=True)


def unpack(kind, body):
    """The items in a message."""
    if kind == wire.ITEM:
        return [body]
    return msgpack.unpackb(body) if kind == wire.ITEMS else []


def position(message_id):
    """The run, and the number of the items before the message, as text."""
    run, _, number = message_id.rpartition("-")
    return run, number


class Caller:
    """The end of a client: it reads the items of an answer, and may send some."""

    def __init__(self, channel, content_type, window):
        self.channel = channel
        self.content_type = content_type
        self.window = window
        self.granted = window
        self.received = 0
        self.sent = 0
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

    def check(self, message_id):
        """Each message has the run of the first one, and the number of the items before it."""
        run, number = position(message_id)
        self.run = self.run or run
        if run != self.run or number != str(self.received):
            raise Broken(f"{message_id} after {self.received} items of {self.run}")

    def messages(self):
        """The messages about this stream, until the server is gone."""
        for _, properties, body in self.channel.consume(self.reply_queue, auto_ack=True, inactivity_timeout=0.1):
            if self.is_lost:
                return
            if properties is None:
                if self.server_queue and time.monotonic() - self.sent_at >= PROBE_AFTER:
                    self.tell(wire.PROBE)
            elif properties.correlation_id == self.call_id:
                yield properties, body

    def accept(self, items):
        """The items of a message, decoded. Behind the last one, credit is granted when it is time."""
        if self.received + len(items) > self.granted:
            raise Broken("more items than allowed")
        for item in items:
            self.received += 1
            yield wire.decode(self.content_type, item)
        # Half of the window was read.
        if self.granted - self.received <= self.window // 2:
            self.granted = self.received + self.window
            self.tell(wire.CREDIT, msgpack.packb(self.granted))

    def error(self, properties, body):
        """The error of a reply as text; `None` if it is none."""
        headers = properties.headers or {}
        status = headers.get(wire.STATUS)
        if status in (None, "ok"):
            return None
        error = f"error {status} {headers.get('rpc-message', '')}"
        if status == "application":
            error += f" {json.dumps(wire.decode(properties.content_type or self.content_type, body))}"
        return error + wire.hints(headers)


class Served:
    """The end of a server: it sends the items of an answer, and may read some."""

    def __init__(self, server, request):
        self.server = server
        self.reply_to = request.reply_to
        self.correlation_id = request.correlation_id
        self.content_type = request.content_type
        self.name = request.type
        self.run = uuid.uuid4().hex
        self.credit = int(request.headers[wire.STREAM])
        self.sent = 0
        self.sent_at = None

    def key(self):
        return (self.reply_to, self.correlation_id)

    def message_id(self):
        return f"{self.run}-{self.sent}"

    def tell(self, kind, body=b""):
        """Sends a message about this stream to its client."""
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
        self.server.streams.pop(self.key(), None)


class Server:
    """Serves the methods of one queue, whose streams have a queue of their own."""

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

    def opens(self, method, delivery, request, does):
        """Whether a request opens a stream of the method; otherwise it is refused."""
        if method is None:
            self.refuse(request, "unimplemented", f"no method {request.type}")
        elif wire.STREAM not in (request.headers or {}):
            self.refuse(request, "failed_precondition", f"{request.type} {does} a stream")
        elif delivery.redelivered:
            # It may have been open before, and items of it may have been read.
            self.refuse(request, "aborted", "the server of the stream is gone")
        else:
            return True
        return False

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
        if stream:
            stream.on_message(properties, body)
        elif properties.type == wire.PROBE:
            # Credit and items may be on their way when the stream has ended; only a probe asks for it.
            self.refuse(properties, "aborted", "no such stream")

    def on_return(self, channel, method, properties, body):
        self.give_up((method.routing_key, properties.correlation_id), "lost")

    def give_up(self, key, how):
        stream = self.streams.pop(key, None)
        if stream:
            print(f" [x] {how} {stream.name} after {stream.progress()}", flush=True)

    def run(self):
        while True:
            self.connection.process_data_events(time_limit=1)
            for stream in list(self.streams.values()):
                if time.monotonic() - stream.sent_at >= PROBE_AFTER:
                    stream.tell(wire.PROBE)


def call(method, request, body):
    """Calls the method with the arguments of a request, by name or by position."""
    arguments = wire.decode(request.content_type, body)
    return method(**arguments) if isinstance(arguments, dict) else method(*arguments)


def serve(server, queue):
    """Serves until SIGINT or SIGTERM."""
    print(f" [*] Serving {queue}", flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
