"""aio-pika through the scenario of tests/tests/conformance/interop/clients.rs."""

import asyncio
import os
import sys

import aio_pika


async def main(name):
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    print("connected")

    exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, auto_delete=True)
    queue = await channel.declare_queue(name, exclusive=True)
    await queue.bind(exchange, "a.*")
    print("declared")

    for word in ["one", "two", "three"]:
        await exchange.publish(aio_pika.Message(word.encode()), "a.b", mandatory=True)
    print("confirmed")

    try:
        await exchange.publish(aio_pika.Message(b"nobody"), "b.a", mandatory=True)
    except aio_pika.exceptions.DeliveryError as error:
        print("returned", error.message.delivery.reply_code)

    await channel.set_qos(prefetch_count=1)
    words = []
    async with queue.iterator() as messages:
        async for message in messages:
            words.append(message.body.decode())
            await message.ack()
            if len(words) == 3:
                break
    print("consumed", *words)

    await channel.default_exchange.publish(aio_pika.Message(b"again"), name)
    message = await queue.get()
    await message.nack(requeue=True)
    message = await queue.get(no_ack=True)
    print("got", message.body.decode(), "redelivered" if message.redelivered else "for the first time")

    try:
        await (await connection.channel()).declare_queue("missing." + name, passive=True)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        print("refused 404")

    await connection.close()
    print("closed")


asyncio.run(main(sys.argv[1]))
