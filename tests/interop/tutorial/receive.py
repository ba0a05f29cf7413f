"""Tutorial one: prints what comes into the queue `hello`."""

import broker


def on_message(channel, delivery, properties, body):
    print(f" [x] Received '{body.decode()}'")


channel = broker.connect().channel()
channel.queue_declare(queue="hello")
channel.basic_consume(queue="hello", on_message_callback=on_message, auto_ack=True)
broker.wait(channel, " [*] Waiting for messages. To exit press CTRL+C")
