"""The connection of the tutorial's peers, and how they wait until Ctrl-C."""

import os

import pika


def connect():
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    return pika.BlockingConnection(pika.URLParameters(url))


def wait(channel, words):
    print(words)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        pass
