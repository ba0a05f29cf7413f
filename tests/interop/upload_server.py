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

import msgpack
import pika
import wire
from streams import Broken, Served, Server, call, position, serve, unpack

# A method is a generator. It yields what it wishes for: a row, or `END` behind the last one; to read no more rows; to go
# on when it is released; or to send an item of its answer, in a tuple.
READ, STOP, RELEASE = "read", "stop", "release"
END = object()


class Refused(Exception):
    """The methods' own error."""

    def __init__(self, at):
        self.at = at


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


class Upload(Served):
    def __init__(self, server, request, method):
        super().__init__(server, request)
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

    def progress(self):
        return f"{self.received} rows"

    def open(self):
        self.tell(wire.OPEN, msgpack.packb(self.granted))
        self.advance()

    def on_message(self, properties, body):
        try:
            self.take(properties, body)
        except Broken as broken:
            print(f" [x] broken {self.name}: {broken}", flush=True)
            self.end({wire.STATUS: "invalid_argument", "rpc-message": str(broken)})

    def take(self, properties, body):
        run, number = position(properties.message_id)
        if run != self.run or number != str(self.received):
            raise Broken(f"{properties.message_id} after {self.received} rows of {self.run}")
        if properties.type == wire.CREDIT:
            self.credit = max(self.credit, msgpack.unpackb(body))
        elif properties.type in (wire.ITEM, wire.ITEMS):
            if self.is_at_end:
                raise Broken("a row behind the end")
            rows = unpack(properties.type, body)
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


class Uploads(Server):
    def __init__(self, connection, queue, window):
        super().__init__(connection, queue)
        self.window = window

    def on_request(self, channel, delivery, request, body):
        method = METHODS.get(request.type)
        # Before the first row: a stream may be longer than the broker waits for this.
        channel.basic_ack(delivery.delivery_tag)
        if request.type == "release":
            self.release(request)
        elif self.opens(method, delivery, request, "takes"):
            upload = Upload(self, request, call(method, request, body))
            self.streams[upload.key()] = upload
            upload.open()

    def release(self, request):
        """Lets the methods go on that wait for it."""
        properties = pika.BasicProperties(correlation_id=request.correlation_id)
        body = wire.encode(request.content_type, None)
        self.channel.basic_publish("", request.reply_to, body, properties, mandatory=True)
        for upload in list(self.streams.values()):
            upload.is_released = True
            upload.advance()


queue, window = sys.argv[1:3]
serve(Uploads(wire.connect(), queue, int(window)), queue)
