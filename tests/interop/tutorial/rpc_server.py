"""Tutorial six: computes Fibonacci numbers, asked and answered as plain text."""

import broker
import pika


def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def on_request(channel, delivery, properties, body):
    n = int(body)
    print(f" [.] fib({n})")
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=str(fib(n)),
    )
    channel.basic_ack(delivery_tag=delivery.delivery_tag)


channel = broker.connect().channel()
channel.queue_declare(queue="rpc_queue")
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue="rpc_queue", on_message_callback=on_request)
broker.wait(channel, " [x] Awaiting RPC requests")
