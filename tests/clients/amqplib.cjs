// Node's amqplib through the scenario of tests/tests/conformance/interop/clients.rs.

const amqplib = require('amqplib');

async function main(name) {
  const connection = await amqplib.connect(process.env.AMQP_URL);
  const channel = await connection.createConfirmChannel();
  console.log('connected');

  await channel.assertExchange(name, 'topic', { autoDelete: true, durable: false });
  await channel.assertQueue(name, { exclusive: true });
  await channel.bindQueue(name, name, 'a.*');
  console.log('declared');

  for (const word of ['one', 'two', 'three']) {
    channel.publish(name, 'a.b', Buffer.from(word), { mandatory: true });
  }
  await channel.waitForConfirms();
  console.log('confirmed');

  channel.once('return', (message) => console.log('returned', message.fields.replyCode));
  channel.publish(name, 'b.a', Buffer.from('nobody'), { mandatory: true });
  await channel.waitForConfirms();

  await channel.prefetch(1);
  const words = [];
  await new Promise((done) => {
    channel.consume(name, (message) => {
      words.push(message.content.toString());
      channel.ack(message);
      if (words.length === 3) done();
    }, { consumerTag: 'reader' });
  });
  await channel.cancel('reader');
  console.log('consumed', ...words);

  channel.sendToQueue(name, Buffer.from('again'));
  await channel.waitForConfirms();
  channel.nack(await channel.get(name), false, true);
  const again = await channel.get(name, { noAck: true });
  console.log('got', again.content.toString(), again.fields.redelivered ? 'redelivered' : 'for the first time');

  const other = await connection.createChannel();
  other.on('error', () => {});
  await other.checkQueue('missing.' + name).catch((error) => console.log('refused', error.code));

  await connection.close();
  console.log('closed');
}

main(process.argv[2]);
