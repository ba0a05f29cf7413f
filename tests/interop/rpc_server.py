"""Serves `fib`, `divide`, `reversed`, `tenant` and `busy` to Lepus clients, in the codec of each request, also several
calls in one message. Prints of each such message how many calls it has, and how many of them have headers.

    rpc_server.py QUEUE
"""

import sys

import msgpack
import pika
import wire


class DivideByZero(Exception):
    pass


class Busy(Exception):
    """A status with the parts that are for programs: when to try again, and details."""

    headers = {"rpc-retry-after": 1500, "rpc-details": b"\x82\x00\xff"}


def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def divide(dividend, divisor):
    if divisor == 0:
        raise DivideByZero
    return dividend // divisor


def busy():
    raise Busy


def reversed(data):
    """Bytes in MessagePack, a list in JSON."""
    return data[::-1]


METHODS = {"fib": fib, "divide": divide, "reversed": reversed, "busy": busy}


def answer(method_name, content_type, body, headers):
    """The status, the message, the body and the further headers of a reply."""
    try:
        if method_name == "tenant":
            return None, None, wire.encode(content_type, headers.get("tenant")), {}
        method = METHODS.get(method_name)
        if method is None:
            return "unimplemented", f"no method {method_name}", None, {}
        arguments = wire.decode(content_type, body)
        value = method(**arguments) if isinstance(arguments, dict) else method(*arguments)
    except DivideByZero:
        return "application", "DivideByZero", wire.encode(content_type, "DivideByZero"), {}
    except Busy:
        return "resource_exhausted", "busy", None, Busy.headers
    except Exception as error:
        return "invalid_argument", str(error), None, {}
    return None, None, wire.encode(content_type, value), {}


def answer_calls(content_type, body):
    """The body of the reply to several calls."""
    calls = msgpack.unpackb(body)
    replies = []
    for call_id, method, _, _, arguments, *rest in calls:
        headers = rest[0] if rest else {}
        status, message, reply, further = answer(method, content_type, arguments, headers)
        # The fifth element is left out if there are no further headers.
        replies.append([call_id, status, message, reply or b"", *([further] if further else [])])
    with_headers = sum(len(call) == 6 for call in calls)
    print(f" [x] {len(calls)} calls, {with_headers} with headers", flush=True)
    return msgpack.packb(replies)


def on_request(channel, delivery, request, body):
    headers = request.headers or {}
    properties = pika.BasicProperties(
        correlation_id=request.correlation_id, content_type=request.content_type
    )
    if request.type == wire.CALLS:
        reply = answer_calls(request.content_type, body)
        properties.type = wire.REPLIES
    else:
        status, message, reply, further = answer(request.type, request.content_type, body, headers)
        if status:
            properties.headers = {"rpc-status": status, "rpc-message": message, **further}
        if wire.asks_for_calls(headers):
            properties.type = wire.CALLS
    if request.reply_to:
        channel.basic_publish("", request.reply_to, reply or b"", properties)
    # After the reply: a server that dies in between gives the request back.
    channel.basic_ack(delivery.delivery_tag)


queue = sys.argv[1]
channel = wire.connect().channel()
channel.queue_declare(queue, durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue, on_request)
print(f" [*] Serving {queue}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    pass
