"""pika's asynchronous client (SelectConnection) through the scenario of tests/tests/conformance/interop/clients.rs."""

import os
import sys

import pika

NAME = sys.argv[1]
words = []
confirms = 0


def on_open(connection):
    connection.channel(on_open_callback=on_channel)


def on_channel(channel):
    print("connected")
    channel.add_on_return_callback(on_return)
    channel.exchange_declare(NAME, "topic", auto_delete=True, callback=lambda _: declare_queue(channel))


def declare_queue(channel):
    channel.queue_declare(NAME, exclusive=True, callback=lambda _: bind(channel))


def bind(channel):
    channel.queue_bind(NAME, NAME, "a.*", callback=lambda _: confirm(channel))


def confirm(channel):
    print("declared")
    channel.confirm_delivery(lambda frame: on_confirm(channel, frame), callback=lambda _: publish(channel))


def publish(channel):
    for word in ["one", "two", "three"]:
        channel.basic_publish(NAME, "a.b", word.encode(), mandatory=True)


def on_confirm(channel, frame):
    global confirms
    before, confirms = confirms, frame.method.delivery_tag
    if before < 3 <= confirms:
        print("confirmed")
        channel.basic_publish(NAME, "b.a", b"nobody", mandatory=True)
    elif before < 4 <= confirms:
        channel.basic_qos(prefetch_count=1, callback=lambda _: consume(channel))
    elif before < 5 <= confirms:
        channel.basic_get(NAME, callback=on_get)


def on_return(channel, method, properties, body):
    print("returned", method.reply_code)


def consume(channel):
    channel.basic_consume(NAME, on_message, consumer_tag="reader")


def on_message(channel, method, properties, body):
    words.append(body.decode())
    channel.basic_ack(method.delivery_tag)
    if len(words) == 3:
        channel.basic_cancel("reader", callback=lambda _: on_cancelled(channel))


def on_cancelled(channel):
    print("consumed", *words)
    channel.basic_publish("", NAME, b"again")


def on_get(channel, method, properties, body):
    if not method.redelivered:
        channel.basic_nack(method.delivery_tag, requeue=True)
        channel.basic_get(NAME, callback=on_get)
        return
    channel.basic_ack(method.delivery_tag)
    print("got", body.decode(), "redelivered")
    channel.connection.channel(on_open_callback=ask_for_the_missing)


def ask_for_the_missing(channel):
    channel.add_on_close_callback(on_refused)
    channel.queue_declare("missing." + NAME, passive=True)


def on_refused(channel, reason):
    print("refused", reason.reply_code)
    connection.close()


def on_closed(connection, reason):
    print("closed")
    connection.ioloop.stop()


connection = pika.SelectConnection(
    pika.URLParameters(os.environ["AMQP_URL"]), on_open_callback=on_open, on_close_callback=on_closed
)
connection.ioloop.start()
