"""Asks running programs what they serve, and prints a line for each service, work queue or group, sorted.

    discover.py EXCHANGE KEY ping|info|stats|health [WINDOW]

EXCHANGE is `lepus.control`, after its namespace and a dot. KEY is `all`, `service.NAME` or `queue.NAME`. It waits
WINDOW seconds (2 unless given) for the first answer and 0.3 seconds after each. Prints `nobody` if there is none.
"""

import json
import sys
import uuid

import pika
import wire

KINDS = {"ping": wire.PING, "info": wire.INFO, "stats": wire.STATS, "health": wire.HEALTH}


def ask(channel, exchange, key, kind, window):
    """The answers, each as it was decoded."""
    reply_queue = channel.queue_declare(queue=f"python.{uuid.uuid4()}", exclusive=True).method.queue
    question_id = str(uuid.uuid4())
    question = pika.BasicProperties(
        type=kind,
        reply_to=reply_queue,
        correlation_id=question_id,
        expiration=str(int(window * 1000)),
    )
    channel.confirm_delivery()
    channel.basic_publish(exchange, key, b"", question, mandatory=True)
    answers = []
    while True:
        quiet = 0.3 if answers else window
        _, answer, body = next(channel.consume(reply_queue, auto_ack=True, inactivity_timeout=quiet))
        if answer is None:
            return answers
        if (answer.correlation_id, answer.type) == (question_id, kind):
            answers.append(json.loads(body))


def line(kind, answer):
    name = answer["name"]
    if kind == wire.HEALTH:
        return f"{name} {answer['status']}"
    if kind == wire.INFO:
        methods = [f"{it['name']}({', '.join(it['data']['arguments'])})" for it in answer["endpoints"]]
        return f"{name} {answer['kind']} {answer['version']} {' '.join(sorted(methods))}"
    if kind == wire.STATS:
        return f"{name} {sum(it['num_requests'] for it in answer['endpoints'])}"
    return name


exchange, key, word = sys.argv[1:4]
window = float(sys.argv[4]) if len(sys.argv) > 4 else 2.0
connection = wire.connect()
try:
    found = ask(connection.channel(), exchange, key, KINDS[word], window)
    for text in sorted(line(KINDS[word], answer) for answer in found) or ["nobody"]:
        print(text)
except pika.exceptions.UnroutableError:
    print("nobody")
finally:
    connection.close()
