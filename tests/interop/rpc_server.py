"""Serves `fib` and `divide` to Lepus clients, in the codec of each request.

    rpc_server.py QUEUE
"""

import sys

import pika
import wire


class DivideByZero(Exception):
    pass


def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def divide(dividend, divisor):
    if divisor == 0:
        raise DivideByZero
    return dividend // divisor


METHODS = {"fib": fib, "divide": divide}


def answer(request, body):
    """The status, the message and the body of a reply."""
    method = METHODS.get(request.type)
    if method is None:
        return "unimplemented", f"no method {request.type}", None
    try:
        arguments = wire.decode(request.content_type, body)
        value = method(**arguments) if isinstance(arguments, dict) else method(*arguments)
    except DivideByZero:
        return "application", "DivideByZero", wire.encode(request.content_type, "DivideByZero")
    except Exception as error:
        return "invalid_argument", str(error), None
    return None, None, wire.encode(request.content_type, value)


def on_request(channel, delivery, request, body):
    status, message, reply = answer(request, body)
    headers = {"rpc-status": status, "rpc-message": message} if status else None
    if request.reply_to:
        properties = pika.BasicProperties(
            correlation_id=request.correlation_id, content_type=request.content_type, headers=headers
        )
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
