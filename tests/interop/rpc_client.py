"""Calls a method of a Lepus service and prints what came of it.

    rpc_client.py QUEUE json|msgpack METHOD ARGUMENTS [TIMEOUT]

ARGUMENTS is JSON: a map by name, or an array by position. Prints `value JSON`,
`error CODE MESSAGE`, or, for the method's own error, `error application MESSAGE JSON`. After the message of a
status are the parts that are for programs, if it has them: `retry-after=MS`, `details=HEX`.
Bytes are printed as a list.
"""

import json
import sys
import uuid

import pika
import wire


def call(channel, queue, content_type, method, arguments, timeout):
    reply_queue = channel.queue_declare(queue=f"python.{uuid.uuid4()}", exclusive=True).method.queue
    call_id = str(uuid.uuid4())
    request = pika.BasicProperties(
        reply_to=reply_queue,
        correlation_id=call_id,
        type=method,
        content_type=content_type,
        expiration=str(int(timeout * 1000)),
    )
    body = wire.encode(content_type, arguments)
    channel.confirm_delivery()
    channel.basic_publish("", queue, body, request, mandatory=True)
    for _, reply, body in channel.consume(reply_queue, auto_ack=True, inactivity_timeout=timeout):
        if reply is None:
            return "error deadline_exceeded no reply"
        if reply.correlation_id != call_id:
            continue
        # A reply that does not say how it is written is written as the request was.
        written = reply.content_type or content_type
        headers = reply.headers or {}
        status = headers.get("rpc-status")
        if status is None:
            return f"value {json.dumps(wire.decode(written, body), default=list)}"
        error = f"error {status} {headers.get('rpc-message', '')}"
        if status == "application":
            error += f" {json.dumps(wire.decode(written, body))}"
        return error + wire.hints(headers)


queue, codec, method, arguments = sys.argv[1:5]
timeout = float(sys.argv[5]) if len(sys.argv) > 5 else 10.0
connection = wire.connect()
try:
    print(call(connection.channel(), queue, f"application/{codec}", method, json.loads(arguments), timeout))
except pika.exceptions.UnroutableError:
    print("error unavailable no such service")
finally:
    connection.close()
