"""What every peer shares: a connection, and the two codecs by content type."""

import json
import os

import msgpack
import pika

JSON = "application/json"
MSGPACK = "application/msgpack"

# The types of messages with several calls and several replies.
CALLS = "lepus.calls/1"
REPLIES = "lepus.replies/1"

# The types of questions to running programs, and of their answers.
PING = "lepus.ping/1"
INFO = "lepus.info/1"
STATS = "lepus.stats/1"
HEALTH = "lepus.health/1"

# The types of the messages of a stream, and the header by which a request asks for one.
OPEN = "lepus.open/1"
ITEM = "lepus.item/1"
ITEMS = "lepus.items/1"
CREDIT = "lepus.credit/1"
END = "lepus.end/1"
STOP = "lepus.stop/1"
PROBE = "lepus.probe/1"
CANCEL = "lepus.cancel/1"
STREAM = "rpc-stream"

# The header that tells that a reply is an error.
STATUS = "rpc-status"


def connect():
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    return pika.BlockingConnection(pika.URLParameters(url))


def encode(content_type, value):
    if content_type == JSON:
        return json.dumps(value).encode()
    if content_type == MSGPACK:
        return msgpack.packb(value)
    raise ValueError(f"no codec for {content_type}")


def decode(content_type, body):
    if content_type == JSON:
        return json.loads(body)
    if content_type == MSGPACK:
        return msgpack.unpackb(body)
    raise ValueError(f"no codec for {content_type}")


def asks_for_calls(headers):
    """Whether a request asks if several calls in one message are accepted."""
    tokens = headers.get("rpc-accept", "").split(",")
    return CALLS in [token.strip() for token in tokens]


def hints(headers):
    """The parts of a status that are for programs, as text; empty if it has none."""
    text = ""
    if "rpc-retry-after" in headers:
        text += f" retry-after={headers['rpc-retry-after']}"
    if "rpc-details" in headers:
        text += f" details={bytes(headers['rpc-details']).hex()}"
    return text
