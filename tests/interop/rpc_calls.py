"""Sends several calls to a Lepus service in one message, and prints what came of each.

    rpc_calls.py QUEUE json|msgpack CALLS

CALLS is JSON: a list of `[METHOD, ARGUMENTS]` or `[METHOD, ARGUMENTS, HEADERS]`. Prints a line for each, in
their order: `value JSON`, or `error CODE MESSAGE`, with ` retry-after=MS` and ` details=HEX` of a status that has them.
"""

import json
import sys
import uuid

import msgpack
import pika
import wire

TIMEOUT = 10


def call(channel, queue, content_type, calls):
    reply_queue = channel.queue_declare(queue=f"python.{uuid.uuid4()}", exclusive=True).method.queue
    message_id = str(uuid.uuid4())
    request = pika.BasicProperties(
        reply_to=reply_queue,
        correlation_id=message_id,
        type=wire.CALLS,
        content_type=content_type,
        expiration=str(TIMEOUT * 1000),
    )
    written = []
    for call_id, (method, arguments, *headers) in enumerate(calls):
        body = wire.encode(content_type, arguments)
        written.append([call_id, method, TIMEOUT * 1000, None, body, *headers])
    channel.confirm_delivery()
    channel.basic_publish("", queue, msgpack.packb(written), request, mandatory=True)
    outcomes = {}
    for _, reply, body in channel.consume(reply_queue, auto_ack=True, inactivity_timeout=TIMEOUT):
        if reply is None:
            break
        if reply.correlation_id != message_id:
            continue
        if reply.type != wire.REPLIES:
            return [f"refused {reply.headers}"]
        for call_id, status, message, value, *headers in msgpack.unpackb(body):
            if status is None:
                outcomes[call_id] = f"value {json.dumps(wire.decode(content_type, value))}"
            else:
                hints = wire.hints(headers[0] if headers else {})
                outcomes[call_id] = f"error {status} {message or ''}{hints}"
        if len(outcomes) == len(calls):
            break
    return [outcomes.get(call_id, "no reply") for call_id in range(len(calls))]


queue, codec, calls = sys.argv[1:4]
connection = wire.connect()
try:
    for outcome in call(connection.channel(), queue, f"application/{codec}", json.loads(calls)):
        print(outcome)
finally:
    connection.close()
