"""Serves methods that take a stream to Lepus clients, and some that return one as well, in the codec of each request.

    upload_server.py QUEUE WINDOW

`sum` answers at the end of the rows, `below` may answer before it, `leaves` reads one row and no more, and `held` reads
none before there is a call of `release`, for which `leaves` waits with its answer as well. `talk` answers each row up to
the last, and `first` goes on behind the first one. WINDOW is how many rows may be on their way. Prints a line for each
end of a stream of rows, with the number of rows that came, and for each call that a client cancels, or whose client is
gone.
"""

import collections
import sys
import time
import uuid

import msgpack
import pika
import wire

# A side that has sent nothing for so long sends a probe.
PROBE_AFTER = 10.0

# A method is a generator. It yields what it wishes for: a row, or `END` behind the last one; to read no more rows; to go
# on when it is released; or to send an item of its answer, in a tuple.
READ, STOP, RELEASE = "read", "stop", "release"
END = object()


class Refused(Exception):
    """The methods' own error."""

    def __init__(self, at):
        self.at = at


class Broken(Exception):
    """The client has broken the rules of streams."""


def sum_of(add):
    total = add
    while (row := (yield READ)) is not END:
        total += row
    return total


def below(limit):
    total = 0
    while (row := (yield READ)) is not END:
        if row == limit:
            raise Refused(row)
        total += row
    return total


def leaves():
    row = yield READ
    yield STOP
    yield RELEASE
    return row


def held():
    yield RELEASE
    count = 0
    while (yield READ) is not END:
        count += 1
    return count


def talk(add, last=None):
    while (row := (yield READ)) is not END and row != last:
        yield (row + add,)


def first(to):
    yield ((yield READ),)
    yield STOP
    for number in range(to):
        yield (number,)


METHODS = {"sum": sum_of, "below": below, "leaves": leaves, "held": held, "talk": talk, "first": first}


class Call:
    def __init__(self, server, request, method):
        self.server = server
        self.reply_to = request.reply_to
        self.correlation_id = request.correlation_id
        self.content_type = request.content_type
        self.name = request.type
        self.run = uuid.uuid4().hex
        self.method = method
        self.wish = next(method)
        self.is_released = False
        # The rows: those that came and are not read, how many came, were read and may come.
        self.rows = collections.deque()
        self.received = 0
        self.read = 0
        self.granted = server.window
        self.is_at_end = False
        self.is_stopped = False
        # The items of the answer.
        self.credit = int(request.headers[wire.STREAM])
        self.sent = 0
        self.sent_at = None

    def key(self):
        return (self.reply_to, self.correlation_id)

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
        self.server.calls.pop(self.key(), None)

    def open(self):
        self.tell(wire.OPEN, msgpack.packb(self.granted))
        self.advance()

    def on_message(self, properties, body):
        run, _, number = properties.message_id.rpartition("-")
        if run != self.run or number != str(self.received):
            raise Broken(f"{properties.message_id} after {self.received} rows of {self.run}")
        if properties.type == wire.CREDIT:
            self.credit = max(self.credit, msgpack.unpackb(body))
        elif properties.type in (wire.ITEM, wire.ITEMS):
            if self.is_at_end:
                raise Broken("a row behind the end")
            rows = [body] if properties.type == wire.ITEM else msgpack.unpackb(body)
            self.received += len(rows)
            if self.received > self.granted:
                raise Broken("more rows than allowed")
            if not self.is_stopped:
                self.rows.extend(wire.decode(self.content_type, row) for row in rows)
        elif properties.type == wire.END:
            self.is_at_end = True
            print(f" [x] ended {self.name} after {self.received} rows", flush=True)
        self.advance()

    def advance(self):
        """Gives the method what it wishes for, as long as that is there."""
        while True:
            value = None
            if self.wish == READ:
                if not self.rows and not self.is_at_end:
                    return
                value = self.next_row()
            elif self.wish == STOP:
                self.is_stopped = True
                self.rows.clear()
                if not self.is_at_end:
                    self.tell(wire.STOP)
            elif self.wish == RELEASE:
                if not self.is_released:
                    return
            else:
                if self.sent == self.credit:
                    return
                self.tell(wire.ITEM, wire.encode(self.content_type, self.wish[0]))
                self.sent += 1
            try:
                self.wish = self.method.send(value)
            except StopIteration as answer:
                return self.end(body=wire.encode(self.content_type, answer.value))
            except Refused as error:
                body = wire.encode(self.content_type, {"at": error.at})
                return self.end({wire.STATUS: "application", "rpc-message": "refused"}, body)

    def next_row(self):
        if not self.rows:
            return END
        self.read += 1
        # Half of the window was read.
        if not self.is_at_end and self.granted - self.read <= self.server.window // 2:
            self.granted = self.read + self.server.window
            self.tell(wire.CREDIT, msgpack.packb(self.granted))
        return self.rows.popleft()


class Server:
    def __init__(self, connection, queue, window):
        self.connection = connection
        self.window = window
        self.channel = connection.channel()
        self.own_queue = f"lepus.stream.{uuid.uuid4().hex}"
        self.calls = {}
        self.channel.add_on_return_callback(self.on_return)
        self.channel.queue_declare(self.own_queue, exclusive=True)
        self.channel.basic_consume(self.own_queue, self.on_message, auto_ack=True)
        self.channel.queue_declare(queue, durable=True)
        self.channel.basic_consume(queue, self.on_request)

    def on_request(self, channel, delivery, request, body):
        method = METHODS.get(request.type)
        # Before the first row: a stream may be longer than the broker waits for this.
        channel.basic_ack(delivery.delivery_tag)
        if request.type == "release":
            self.release(request)
        elif method is None:
            self.refuse(request, "unimplemented", f"no method {request.type}")
        elif wire.STREAM not in (request.headers or {}):
            self.refuse(request, "failed_precondition", f"{request.type} takes a stream")
        elif delivery.redelivered:
            # It may have been open before, and rows may have been sent.
            self.refuse(request, "aborted", "the server of the stream is gone")
        else:
            arguments = wire.decode(request.content_type, body)
            method = method(**arguments) if isinstance(arguments, dict) else method(*arguments)
            call = Call(self, request, method)
            self.calls[call.key()] = call
            call.open()

    def release(self, request):
        """Lets the methods go on that wait for it."""
        properties = pika.BasicProperties(correlation_id=request.correlation_id)
        body = wire.encode(request.content_type, None)
        self.channel.basic_publish("", request.reply_to, body, properties, mandatory=True)
        for call in list(self.calls.values()):
            call.is_released = True
            call.advance()

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
        call = self.calls.get((properties.reply_to, properties.correlation_id))
        if call is None:
            # Rows may be on their way when the answer is sent.
            if properties.type == wire.PROBE:
                self.refuse(properties, "aborted", "no such stream")
            return
        try:
            call.on_message(properties, body)
        except Broken as broken:
            print(f" [x] broken {call.name}: {broken}", flush=True)
            call.end({wire.STATUS: "invalid_argument", "rpc-message": str(broken)})

    def on_return(self, channel, method, properties, body):
        self.give_up((method.routing_key, properties.correlation_id), "lost")

    def give_up(self, key, how):
        call = self.calls.pop(key, None)
        if call:
            print(f" [x] {how} {call.name} after {call.received} rows", flush=True)

    def run(self):
        while True:
            self.connection.process_data_events(time_limit=1)
            for call in list(self.calls.values()):
                if time.monotonic() - call.sent_at >= PROBE_AFTER:
                    call.tell(wire.PROBE)


queue, window = sys.argv[1:3]
server = Server(wire.connect(), queue, int(window))
print(f" [*] Serving {queue}", flush=True)
try:
    server.run()
except KeyboardInterrupt:
    pass
