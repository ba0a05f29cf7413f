"""pika's blocking client through the scenario of tests/tests/conformance/interop/clients.rs."""

import os
import sys

import pika

name = sys.argv[1]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
print("connected")

channel.exchange_declare(name, "topic", auto_delete=True)
channel.queue_declare(name, exclusive=True)
channel.queue_bind(name, name, "a.*")
print("declared")

channel.confirm_delivery()
for word in ["one", "two", "three"]:
    channel.basic_publish(name, "a.b", word.encode(), mandatory=True)
print("confirmed")

try:
    channel.basic_publish(name, "b.a", b"nobody", mandatory=True)
except pika.exceptions.UnroutableError as error:
    print("returned", error.messages[0].method.reply_code)

channel.basic_qos(prefetch_count=1)
words = []
for method, _, body in channel.consume(name):
    words.append(body.decode())
    channel.basic_ack(method.delivery_tag)
    if len(words) == 3:
        break
channel.cancel()
print("consumed", *words)

channel.basic_publish("", name, b"again")
method, _, _ = channel.basic_get(name)
channel.basic_nack(method.delivery_tag, requeue=True)
method, _, body = channel.basic_get(name, auto_ack=True)
print("got", body.decode(), "redelivered" if method.redelivered else "for the first time")

try:
    connection.channel().queue_declare("missing." + name, passive=True)
except pika.exceptions.ChannelClosedByBroker as error:
    print("refused", error.reply_code)

connection.close()
print("closed")
