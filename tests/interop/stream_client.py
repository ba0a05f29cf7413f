"""Reads a stream of a Lepus service and prints its items.

    stream_client.py QUEUE json|msgpack METHOD ARGUMENTS WINDOW [TAKE]

WINDOW is how many items may be on their way. ARGUMENTS is JSON: a map by name, or an array by position. Prints
`item JSON` for each item, and then `end`, `error CODE MESSAGE`, or, for the method's own error,
`error application MESSAGE JSON`. With TAKE it cancels the stream after so many items, and prints `cancelled`.
"""

import json
import sys

import wire
from streams import Broken, Caller, unpack


class Stream(Caller):
    def items(self):
        """The items. Returns the end: the properties and the body of a reply, or `None` if the server is gone."""
        for properties, body in self.messages():
            if properties.type not in (wire.OPEN, wire.ITEM, wire.ITEMS, wire.PROBE):
                is_status = wire.STATUS in (properties.headers or {})
                if not is_status:
                    self.check(properties.message_id)
                return properties, body
            self.check(properties.message_id)
            self.server_queue = properties.reply_to
            yield from self.accept(unpack(properties.type, body))
        return None

    def outcome(self, end):
        """The end as text."""
        if end is None:
            return "error unavailable disconnected"
        return self.error(*end) or "end"


def read(stream, take):
    items = stream.items()
    while True:
        if stream.received == take:
            stream.cancel()
            return "cancelled"
        try:
            print(f"item {json.dumps(next(items), default=list)}", flush=True)
        except StopIteration as ended:
            return stream.outcome(ended.value)
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
