//! Simulation of random histories of many channels: the channel cores against the core of the embedded
//! broker, in one thread, with bytes delayed and cut anywhere and faults in between; and against
//! RabbitMQ over TCP.
//!
//! These invariants are checked: every call gets one reply, or fails when its channel closes. The close
//! of a channel is reported once. No channel number leaks, and none is used again too early, so the
//! broker never closes the connection. Every publish has one outcome. Every delivery is settled or
//! requeued once: the broker's count of unsettled deliveries equals ours, and is zero in the end.
//!
//! `LEPUS_SIM_HISTORIES` sets the number of histories, `LEPUS_SIM_SEED` the seed of the first one
//! (a failure names its own, and `LEPUS_SIM_HISTORIES=1` repeats it alone).

mod broker;
mod client;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use amq_protocol::frame::{AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldTable};

use self::broker::{Audit, BrokerConnection, BrokerFault, EmbeddedBroker, RemoteBroker};
use self::client::{CHANNEL_MAX, FRAME_MAX, SimulatedClient};
use crate::error::{Error, ErrorKind};
use crate::link::socket::channels::rng::SeededRng;

/// The number of operations, transfers of bytes and faults in one history.
const STEPS: usize = 150;
/// The time limit of all histories of a run in which their number is not set.
const TIME_LIMIT: Duration = Duration::from_secs(4);

/// Events that must occur at least once in a large number of histories.
const EXPECTED_EVENTS: [&str; 12] = [
    "answered",
    "refused",
    "empty",
    "got",
    "delivered",
    "returned",
    "confirmed",
    "confirmed, several",
    "nacked",
    "cancelled",
    "closed",
    "both close at once",
];

/// A client and a broker, and the bytes in transit between them.
struct World<L> {
    rng: SeededRng,
    client: SimulatedClient,
    connection: L,
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    withholds: bool,
}

impl<L: BrokerConnection> World<L> {
    fn new(connection: L, client: SimulatedClient, rng: SeededRng) -> Self {
        let mut world = Self {
            rng,
            client,
            connection,
            to_broker: Vec::new(),
            to_client: Vec::new(),
            withholds: false,
        };
        world.handshake();
        world
    }

    fn handshake(&mut self) {
        let [user, password, vhost] = self.connection.login();
        let mut capabilities = FieldTable::default();
        for name in ["consumer_cancel_notify", "basic.nack", "publisher_confirms"] {
            capabilities.insert(name.into(), AMQPValue::Boolean(true));
        }
        let mut client_properties = FieldTable::default();
        client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        let start_ok = connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: "PLAIN".into(),
            response: format!("\0{user}\0{password}").as_str().into(),
            locale: "en_US".into(),
        });
        let tune_ok = connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: CHANNEL_MAX,
            frame_max: FRAME_MAX,
            heartbeat: 0,
        });
        let open = connection::AMQPMethod::Open(connection::Open {
            virtual_host: vhost.as_str().into(),
        });
        let steps = [
            (b"AMQP\0\0\x09\x01".to_vec(), 10),
            (encode(start_ok), 30),
            ([encode(tune_ok), encode(open)].concat(), 41),
        ];
        let mut received = Vec::new();
        for (step, answer) in steps {
            self.connection.send(&step);
            loop {
                match parse_frame(&received[..]) {
                    Ok((rest, AMQPFrame::Method(0, method))) => {
                        assert_eq!(method.get_amqp_method_id(), answer, "{method:?}");
                        received = rest.to_vec();
                        break;
                    }
                    Ok((_, other)) => panic!("{other:?}"),
                    Err(_) => {
                        let more = self.connection.receive(true);
                        assert!(!more.is_empty(), "no answer to the handshake");
                        received.extend(more);
                    }
                }
            }
        }
        assert!(received.is_empty());
    }

    /// Transfers up to `most` bytes to the broker.
    fn send(&mut self, most: usize) {
        self.to_broker.extend_from_slice(&self.client.out.split());
        let size = self.to_broker.len().min(most);
        if size > 0 {
            let now: Vec<u8> = self.to_broker.drain(..size).collect();
            self.connection.send(&now);
        }
    }

    /// Transfers up to `most` bytes from the broker.
    fn receive(&mut self, most: usize, waits: bool) {
        let waits = waits && self.to_client.is_empty();
        self.to_client.extend(self.connection.receive(waits));
        let size = self.to_client.len().min(most);
        let now: Vec<u8> = self.to_client.drain(..size).collect();
        self.client.receive(&now);
    }

    /// Declares the queues and exchanges that most operations need.
    fn furnish(&mut self) {
        self.client.open(&mut self.rng);
        self.settle_down();
        if let Some(number) = self.client.any(&mut self.rng) {
            self.client.furnish(number);
            self.settle_down();
        }
    }

    fn some(&mut self) -> usize {
        match self.rng.below(4) {
            0 => 1 + self.rng.below(12),
            1 => 1 + self.rng.below(200),
            2 => 1 + self.rng.below(5000),
            _ => usize::MAX,
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..45 => self.client.operate(&mut self.rng),
            45..70 => {
                let some = self.some();
                self.send(some);
            }
            70..95 => {
                let some = self.some();
                self.receive(some, false);
            }
            95..99 => self.fault(),
            _ if self.rng.once_in(4) => self.cut(),
            _ => self.settle_down(),
        }
    }

    fn fault(&mut self) {
        let fault = match self.rng.below(6) {
            0 | 1 => match self.client.any(&mut self.rng) {
                Some(number) => BrokerFault::CloseChannel(number),
                None => return,
            },
            2 => BrokerFault::CancelConsumers(self.client.queue(&mut self.rng)),
            3 => BrokerFault::DeleteQueue(self.client.queue(&mut self.rng)),
            4 => BrokerFault::NackNext(self.rng.below(3) as u32),
            _ => {
                self.withholds = !self.withholds;
                BrokerFault::WithholdConfirms(self.withholds)
            }
        };
        self.client.log(|| format!("{fault:?}"));
        self.connection.fault(fault);
    }

    /// Cuts the connection between any two bytes and opens another one.
    fn cut(&mut self) {
        self.client
            .connection_lost(&Error::new(ErrorKind::Disconnected));
        self.to_broker.clear();
        self.to_client.clear();
        self.withholds = false;
        self.connection.reconnect();
        self.handshake();
    }

    /// Transfers everything in transit, and checks that both sides count the same.
    fn settle_down(&mut self) {
        if std::mem::take(&mut self.withholds) {
            self.connection.fault(BrokerFault::WithholdConfirms(false));
        }
        loop {
            self.send(usize::MAX);
            let waits = self.client.is_waiting();
            let before = self.to_client.len();
            self.receive(0, waits);
            let is_silent = self.to_client.is_empty() && before == 0;
            self.receive(usize::MAX, false);
            if is_silent && self.client.out.is_empty() {
                assert!(
                    !waits,
                    "the broker is silent, but a reply or a confirm is due"
                );
                break;
            }
        }
        self.client.end_delays();
        if let Some(Audit { channels, unacked }) = self.connection.audit() {
            assert_eq!(channels, self.client.len(), "channels");
            if let Some(unsettled) = self.client.unsettled() {
                assert_eq!(unacked, unsettled, "deliveries to be settled");
            }
        }
    }

    fn run(&mut self, steps: usize) {
        self.furnish();
        for _ in 0..steps {
            self.step();
        }
        self.settle_down();
        self.client.close_all(&mut self.rng);
        self.settle_down();
        assert_eq!(self.client.len(), 0);
    }
}

fn encode(method: connection::AMQPMethod) -> Vec<u8> {
    let frame = AMQPFrame::Method(0, AMQPClass::Connection(method));
    let written = gen_frame(&frame)(Vec::new().into());
    written.unwrap().into_inner().0
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs histories, each with its own seed, and prints the log of the first one that fails.
fn histories<L: BrokerConnection>(
    usual: u64,
    limit: Duration,
    world: impl Fn(u64) -> World<L>,
    check: impl Fn(&L),
) -> BTreeMap<&'static str, usize> {
    let asked = variable("LEPUS_SIM_HISTORIES");
    let first = variable("LEPUS_SIM_SEED");
    let first = first.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let began = Instant::now();
    let mut seen = BTreeMap::new();
    let run = |world: &mut World<L>| {
        world.run(STEPS);
        check(&world.connection);
    };
    for number in 0..asked.unwrap_or(usual) {
        if asked.is_none() && began.elapsed() > limit {
            break;
        }
        let seed = first.wrapping_add(number);
        let mut history = world(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&mut history))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            // Again, with a log, which would slow down all the other histories.
            if history.client.trace.is_none() {
                history = world(seed);
                history.client.trace = Some(Vec::new());
                drop(catch_unwind(AssertUnwindSafe(|| run(&mut history))));
            }
            panic!(
                "LEPUS_SIM_SEED={seed} LEPUS_SIM_HISTORIES=1 repeats it: {}\n{}",
                text.unwrap_or("?"),
                history.client.trace.unwrap_or_default().join("\n")
            );
        }
        for (what, times) in history.client.seen {
            *seen.entry(what).or_default() += times;
        }
        *seen.entry("histories").or_default() += 1;
    }
    seen
}

#[test]
fn no_history_breaks_an_invariant() {
    let world = |seed| {
        let client = SimulatedClient::new(String::new(), false);
        World::new(EmbeddedBroker::new(seed), client, SeededRng::new(seed))
    };
    let seen = histories(3000, TIME_LIMIT, world, |connection| {
        for queue in connection.broker.queues() {
            assert_eq!((queue.unacked, queue.consumers), (0, 0), "{}", queue.name);
        }
    });
    // A slow machine may not have run enough histories in the time limit.
    if seen
        .get("histories")
        .is_some_and(|histories| *histories >= 300)
    {
        let unseen = EXPECTED_EVENTS
            .iter()
            .filter(|what| !seen.contains_key(*what));
        assert_eq!(unseen.count(), 0, "{seen:?}");
    }
}

/// Over TCP, where the timing of the broker's bytes is not under control.
#[test]
#[ignore = "needs RabbitMQ: AMQP_URL=… cargo test -p lepus --lib simulation -- --ignored"]
fn no_history_breaks_an_invariant_on_rabbitmq() {
    let uri = std::env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ");
    let run = RandomState::new().build_hasher().finish();
    let world = |seed| {
        let mut client = SimulatedClient::new(format!("lepus-sim.{run:x}.{seed:x}."), true);
        // A second run may have another order of answers, so the first one has to be logged.
        client.trace = Some(Vec::new());
        World::new(RemoteBroker::new(&uri), client, SeededRng::new(seed))
    };
    histories(300, Duration::from_secs(60), world, |_| {});
}
