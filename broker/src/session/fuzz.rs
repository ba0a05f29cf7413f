//! Hostile input: whatever comes in at whatever stage, the session and the core behind it
//! do not panic, go on for ever, or keep anything when the client is gone.
//!
//! `LEPUS_FUZZ_CASES` sets the number of cases (default 2000).

mod conversation;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use self::conversation::conversation;
use super::{Event, Flow, Output, Session};
use crate::{
    builder::BrokerBuilder,
    core::{Action, Command, Core, Effect, Now},
    id::ConnectionId,
};

/// What a client may cost while its conversation is a few kilobytes long.
const MOST_OUTPUT: usize = 16 * 1024 * 1024;

struct FuzzedBroker {
    core: Core,
    session: Session,
    input: Vec<u8>,
    output: Vec<u8>,
    now: Instant,
    ended: bool,
}

impl FuzzedBroker {
    fn new() -> Self {
        let config = Arc::new(
            BrokerBuilder::default()
                .seed(1)
                .max_message(100_000)
                .config(),
        );
        let now = Instant::now();
        let session = Session::new(ConnectionId(1), config.clone(), String::new(), now);
        Self {
            core: Core::new(config),
            session,
            input: Vec::new(),
            output: Vec::new(),
            now,
            ended: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        let used = self.session.receive(self.now, &self.input, &mut events);
        assert!(used <= self.input.len());
        self.input.drain(..used);
        self.apply_settlement(events);
    }

    fn apply_settlement(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Core(command) => self.tell(command),
                Event::Send(action) => self.send(action),
                Event::Raw(bytes) => self.output.extend_from_slice(bytes),
                Event::End => self.ended = true,
            }
        }
        assert!(
            self.output.len() < MOST_OUTPUT,
            "the answer is out of proportion"
        );
    }

    fn tell(&mut self, command: Command) {
        let mut effects: Vec<Effect> = Vec::new();
        self.core.handle(
            Now {
                instant: self.now,
                unix: 0,
            },
            command,
            &mut effects,
        );
        for effect in effects {
            self.send(effect.action);
        }
    }

    fn send(&mut self, action: Action) {
        self.session.encode(self.now, action, &mut self.output);
    }

    /// Lets the clock run until nothing is due for an hour, then hangs up.
    fn finish(mut self) {
        let flow = Flow {
            reads: true,
            output: Output::Empty,
        };
        let until = self.now + Duration::from_secs(3600);
        let mut steps = 0;
        while let Some(at) = self
            .session
            .next_timeout(flow)
            .filter(|at| *at <= until && !self.ended)
        {
            self.now = self.now.max(at);
            let mut events = Vec::new();
            self.session
                .timeout(self.now, flow, &mut self.output, &mut events);
            self.apply_settlement(events);
            steps += 1;
            assert!(steps < 100_000, "a timeout that is always due");
        }
        while self.core.next_timeout().is_some_and(|at| at <= until) {
            self.now = self
                .core
                .next_timeout()
                .map_or(self.now, |at| self.now.max(at));
            self.tell(Command::Tick);
        }
        self.tell(Command::Disconnected(ConnectionId(1)));
        assert!(self.core.connection_infos().is_empty());
        assert!(self.core.consumer_infos().is_empty());
        for queue in self.core.queue_infos() {
            assert_eq!((queue.unacked, queue.exclusive_to), (0, None));
            let name = queue.name.as_str().into();
            let operator = crate::core::Operator::DeleteQueue {
                vhost: "/".into(),
                name,
            };
            self.tell(Command::Operator(operator));
        }
        assert_eq!(self.core.memory(), 0, "messages outlive their queues");
    }
}

/// How a conversation is spoilt.
#[derive(Clone, Debug)]
enum Mutation {
    /// One octet becomes another.
    Set { at: prop::sample::Index, value: u8 },
    /// One bit turns.
    Flip { at: prop::sample::Index, bit: u8 },
    Remove {
        at: prop::sample::Index,
        count: usize,
    },
    Insert {
        at: prop::sample::Index,
        bytes: Vec<u8>,
    },
    /// A piece comes twice.
    Repeat { piece: prop::sample::Index },
    Swap {
        one: prop::sample::Index,
        other: prop::sample::Index,
    },
    /// Noise from here on.
    Noise {
        from: prop::sample::Index,
        bytes: Vec<u8>,
    },
    /// A frame whose form is right and whose payload is noise.
    Frame {
        at: prop::sample::Index,
        kind: u8,
        channel: u16,
        payload: Vec<u8>,
    },
}

fn spoil() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let ids = prop_oneof![
        Just(vec![0, 60, 0, 40]),
        Just(vec![0, 60, 0, 20]),
        Just(vec![0, 50, 0, 10]),
        Just(vec![0, 50, 0, 20]),
        Just(vec![0, 40, 0, 10]),
        Just(vec![0, 10, 0, 11]),
        Just(vec![0, 60, 0, 0]),
        Just(Vec::new()),
    ];
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Mutation::Set { at, value }),
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        2 => (at(), 1..20_usize).prop_map(|(at, count)| Mutation::Remove { at, count }),
        2 => (at(), bytes(20)).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        2 => at().prop_map(|piece| Mutation::Repeat { piece }),
        2 => (at(), at()).prop_map(|(one, other)| Mutation::Swap { one, other }),
        1 => (at(), bytes(300)).prop_map(|(from, bytes)| Mutation::Noise { from, bytes }),
        4 => (at(), 1..10_u8, 0..4_u16, ids, bytes(60)).prop_map(|(at, kind, channel, ids, tail)| {
            let payload = [ids, tail].concat();
            Mutation::Frame { at, kind, channel, payload }
        }),
    ]
}

fn spoilt(spoils: &[Mutation]) -> Vec<u8> {
    let mut pieces = conversation();
    for spoil in spoils {
        match spoil {
            Mutation::Repeat { piece } => {
                let at = piece.index(pieces.len());
                pieces.insert(at, pieces[at].clone());
            }
            Mutation::Swap { one, other } => {
                let (one, other) = (one.index(pieces.len()), other.index(pieces.len()));
                pieces.swap(one, other);
            }
            Mutation::Frame {
                at,
                kind,
                channel,
                payload,
            } => {
                let mut bytes = vec![*kind];
                bytes.extend(channel.to_be_bytes());
                bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
                bytes.extend(payload);
                bytes.push(206);
                pieces.insert(at.index(pieces.len()), bytes);
            }
            _ => {}
        }
    }
    let mut bytes = pieces.concat();
    for spoil in spoils {
        match spoil {
            Mutation::Set { at, value } => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Mutation::Flip { at, bit } => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Mutation::Remove { at, count } => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Mutation::Insert { at, bytes: more } => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Noise { from, bytes: noise } => {
                bytes.truncate(from.index(bytes.len()));
                bytes.extend(noise);
            }
            _ => {}
        }
        bytes.push(0);
    }
    bytes
}

fn cases() -> u32 {
    std::env::var("LEPUS_FUZZ_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn hostile_input_does_no_harm(
        spoils in proptest::collection::vec(spoil(), 0..6),
        cuts in proptest::collection::vec(1..400_usize, 1..20),
    ) {
        let bytes = spoilt(&spoils);
        let mut broker = FuzzedBroker::new();
        let mut rest = bytes.as_slice();
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*size).min(rest.len()));
            broker.feed(now);
            rest = later;
        }
        broker.finish();
    }
}

#[test]
fn the_conversation_is_without_fault() {
    let mut broker = FuzzedBroker::new();
    for piece in conversation() {
        assert!(!broker.ended);
        broker.feed(&piece);
        assert!(broker.input.is_empty());
    }
    assert!(broker.ended);
    // The last word is close-ok, and nothing before it was a close.
    assert!(broker.output.ends_with(&[0, 10, 0, 51, 206]));
    broker.finish();
}
