"""Sees the events that are published while it runs.

    subscriber.py EXCHANGE fanout|direct|topic BINDING...
    subscriber.py EXCHANGE headers HEADERS

Prints ` [x] KEY TYPE EVENT`. HEADERS is JSON, with `x-match`.
"""

import json
import sys
import uuid

import wire


def on_event(channel, delivery, properties, body):
    event = json.dumps(wire.decode(properties.content_type, body))
    print(f" [x] {delivery.routing_key} {properties.type} {event}")


exchange, kind, *bindings = sys.argv[1:]
channel = wire.connect().channel()
channel.exchange_declare(exchange, kind, durable=True)
queue = channel.queue_declare(f"python.{uuid.uuid4()}", exclusive=True).method.queue
if kind == "headers":
    channel.queue_bind(queue, exchange, "", arguments=json.loads(bindings[0]))
else:
    for binding in bindings or [""]:
        channel.queue_bind(queue, exchange, binding)
channel.basic_consume(queue, on_event, auto_ack=True)
print(f" [*] Listening to {exchange}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    pass
