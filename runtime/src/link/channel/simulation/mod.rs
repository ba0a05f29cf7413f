//! Random histories of many channels: the cores against the embedded broker's, in one thread, with
//! bytes that are late and cut anywhere and faults between them; and against RabbitMQ over TCP.
//!
//! What has to hold: every method is answered or fails with its channel, once. The end of a channel
//! is told once. No number leaks and none is used too soon, so the broker never closes the
//! connection. Every publish has one outcome. Every delivery is settled or given back once: the
//! broker counts as many as we do, and none in the end.
//!
//! `LEPUS_SIM_HISTORIES` sets the number of histories, `LEPUS_SIM_SEED` the seed of the first one
//! (a failure names its own, and `LEPUS_SIM_HISTORIES=1` repeats it alone).

mod client;
mod line;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use amq_protocol::frame::{AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldTable};

use self::client::{CHANNEL_MAX, FRAME_MAX, SimulatedClient};
use self::line::{Audit, Embedded, Fault, Line, Remote};
use crate::error::{Error, Kind};
use crate::link::channel::dice::Dice;

/// Operations, deliveries of bytes and faults in a history.
const STEPS: usize = 150;
/// How long the histories of a usual run may take.
const USUAL: Duration = Duration::from_secs(4);

/// What has to happen in many histories, if they are worth anything.
const TO_BE_SEEN: [&str; 12] = [
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

/// A client and a broker, and the bytes between them.
struct World<L> {
    dice: Dice,
    client: SimulatedClient,
    line: L,
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    withholds: bool,
}

impl<L: Line> World<L> {
    fn new(line: L, client: SimulatedClient, dice: Dice) -> Self {
        let mut world = Self {
            dice,
            client,
            line,
            to_broker: Vec::new(),
            to_client: Vec::new(),
            withholds: false,
        };
        world.handshake();
        world
    }

    fn handshake(&mut self) {
        let [user, password, vhost] = self.line.login();
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
        let mut heard = Vec::new();
        for (step, answer) in steps {
            self.line.send(&step);
            loop {
                match parse_frame(&heard[..]) {
                    Ok((rest, AMQPFrame::Method(0, method))) => {
                        assert_eq!(method.get_amqp_method_id(), answer, "{method:?}");
                        heard = rest.to_vec();
                        break;
                    }
                    Ok((_, other)) => panic!("{other:?}"),
                    Err(_) => {
                        let more = self.line.receive(true);
                        assert!(!more.is_empty(), "no answer to the handshake");
                        heard.extend(more);
                    }
                }
            }
        }
        assert!(heard.is_empty());
    }

    /// Some bytes go to the broker, and what it says is on its way.
    fn send(&mut self, most: usize) {
        self.to_broker.extend_from_slice(&self.client.out.split());
        let size = self.to_broker.len().min(most);
        if size > 0 {
            let now: Vec<u8> = self.to_broker.drain(..size).collect();
            self.line.send(&now);
        }
    }

    /// Some bytes come from the broker.
    fn receive(&mut self, most: usize, waits: bool) {
        let waits = waits && self.to_client.is_empty();
        self.to_client.extend(self.line.receive(waits));
        let size = self.to_client.len().min(most);
        let now: Vec<u8> = self.to_client.drain(..size).collect();
        self.client.on_event(&now);
    }

    /// Most operations need something to be there.
    fn furnish(&mut self) {
        self.client.open(&mut self.dice);
        self.settle_down();
        if let Some(number) = self.client.any(&mut self.dice) {
            self.client.furnish(number);
            self.settle_down();
        }
    }

    fn some(&mut self) -> usize {
        match self.dice.below(4) {
            0 => 1 + self.dice.below(12),
            1 => 1 + self.dice.below(200),
            2 => 1 + self.dice.below(5000),
            _ => usize::MAX,
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..45 => self.client.operate(&mut self.dice),
            45..70 => {
                let some = self.some();
                self.send(some);
            }
            70..95 => {
                let some = self.some();
                self.receive(some, false);
            }
            95..99 => self.fault(),
            _ if self.dice.once_in(4) => self.cut(),
            _ => self.settle_down(),
        }
    }

    fn fault(&mut self) {
        let fault = match self.dice.below(6) {
            0 | 1 => match self.client.any(&mut self.dice) {
                Some(number) => Fault::CloseChannel(number),
                None => return,
            },
            2 => Fault::CancelConsumers(self.client.queue(&mut self.dice)),
            3 => Fault::DeleteQueue(self.client.queue(&mut self.dice)),
            4 => Fault::NackNext(self.dice.below(3) as u32),
            _ => {
                self.withholds = !self.withholds;
                Fault::WithholdConfirms(self.withholds)
            }
        };
        self.client.say(|| format!("{fault:?}"));
        self.line.fault(fault);
    }

    /// The connection is cut between any two bytes; channels that were on it are over.
    fn cut(&mut self) {
        self.client.lose(&Error::new(Kind::Disconnected));
        self.to_broker.clear();
        self.to_client.clear();
        self.withholds = false;
        self.line.reconnect();
        self.handshake();
    }

    /// Everything that is on its way arrives; then both sides have the same in their books.
    fn settle_down(&mut self) {
        if std::mem::take(&mut self.withholds) {
            self.line.fault(Fault::WithholdConfirms(false));
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
                    "the broker has nothing to say, and something is to be told"
                );
                break;
            }
        }
        self.client.rested();
        if let Some(Audit { channels, unacked }) = self.line.audit() {
            assert_eq!(channels, self.client.len(), "channels");
            if let Some(held) = self.client.held() {
                assert_eq!(unacked, held, "deliveries to be settled");
            }
        }
    }

    fn run(&mut self, steps: usize) {
        self.furnish();
        for _ in 0..steps {
            self.step();
        }
        self.settle_down();
        self.client.close_all(&mut self.dice);
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

/// Runs histories, each of its own seed, and tells what happened in the first one that fails.
fn histories<L: Line>(
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
        check(&world.line);
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
            // Once more, to tell what happened: telling it each time takes most of the time.
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
fn no_history_breaks_a_promise() {
    let world = |seed| {
        let client = SimulatedClient::new(String::new(), false);
        World::new(Embedded::new(seed), client, Dice::new(seed))
    };
    let seen = histories(3000, USUAL, world, |line| {
        for queue in line.broker.queues() {
            assert_eq!((queue.unacked, queue.consumers), (0, 0), "{}", queue.name);
        }
    });
    // A slow machine may not have come to much.
    if seen
        .get("histories")
        .is_some_and(|histories| *histories >= 300)
    {
        let unseen = TO_BE_SEEN.iter().filter(|what| !seen.contains_key(*what));
        assert_eq!(unseen.count(), 0, "{seen:?}");
    }
}

/// Over TCP, where only the broker knows when its bytes come.
#[test]
#[ignore = "needs RabbitMQ: AMQP_URL=… cargo test -p lepus --lib simulation -- --ignored"]
fn no_history_breaks_a_promise_on_rabbitmq() {
    let uri = std::env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ");
    let run = RandomState::new().build_hasher().finish();
    let world = |seed| {
        let mut client = SimulatedClient::new(format!("lepus-sim.{run:x}.{seed:x}."), true);
        // The broker's answers come in another order the next time.
        client.trace = Some(Vec::new());
        World::new(Remote::new(&uri), client, Dice::new(seed))
    };
    histories(300, Duration::from_secs(60), world, |_| {});
}
