//! Comparisons: the first entry of each is the one that the others are measured by.

use std::path::{Path, PathBuf};

use crate::contenders;
use crate::options::{Group, Options};
use crate::task::{Case, Contender, Work};

/// The broker that the messages go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    RabbitMq,
    Embedded,
    Nats,
    Nowhere,
}

#[derive(Debug)]
pub struct Comparison {
    pub group: Group,
    pub title: String,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub label: String,
    pub place: Place,
    pub work: Work,
    pub contender: Contender,
    pub case: Case,
    /// Another build of this program, instead of this one.
    pub program: Option<PathBuf>,
}

/// In the order in which they are shown.
const RPC: [Contender; 16] = [
    Contender::Naive,
    Contender::Tuned,
    Contender::TunedInFull,
    Contender::Lepus,
    Contender::LepusCoalesced,
    Contender::LepusShared,
    Contender::LepusLayered,
    Contender::LepusHeader,
    Contender::LepusTraced,
    Contender::LepusTracer,
    Contender::LepusCoalescedHeader,
    Contender::LepusCoalescedTraced,
    Contender::LepusCoalescedTracer,
    Contender::Amqprs,
    Contender::Nats,
    Contender::Tarpc,
];

pub fn all(options: &Options) -> Vec<Comparison> {
    let of = |group: &Group| match group {
        Group::Rpc => rpc(options.full),
        Group::Jobs => jobs(options.full),
        Group::PubSub => pubsub(options.full),
        Group::Streams => streams(),
        Group::Broker => broker(),
        Group::Local => local(),
        Group::Flat => flat(),
    };
    let all = options.groups.iter().flat_map(of);
    let mut all: Vec<_> = all
        .filter(|comparison| comparison.title.contains(&options.only))
        .collect();
    if let Some(program) = &options.beside {
        all.iter_mut().for_each(|all| all.add_other_build(program));
    }
    all
}

impl Comparison {
    /// Adds what Lepus does here as another build does it, right after each, and leaves out what
    /// does not depend on the build. The other build may be an old one, which knows fewer options.
    fn add_other_build(&mut self, program: &Path) {
        let is_ours = |entry: &Entry| entry.contender.is_lepus();
        let first = self.entries.first().map(|entry| entry.label.clone());
        let entries = std::mem::take(&mut self.entries);
        for entry in entries {
            if !is_ours(&entry) {
                if Some(&entry.label) == first.as_ref() {
                    self.entries.push(entry);
                }
                continue;
            }
            let other = Entry {
                label: format!("{}, other build", entry.label),
                program: Some(program.to_owned()),
                ..entry.clone()
            };
            let is_old = matches!(
                entry.contender,
                Contender::Lepus | Contender::LepusCoalesced
            );
            self.entries.push(entry);
            self.entries.extend(is_old.then_some(other));
        }
    }
}

/// The parts of comparisons that this machine or this version does not have.
pub fn left_out(comparisons: &[Comparison]) -> Vec<String> {
    let groups = [Group::Rpc, Group::Streams];
    if !comparisons.iter().any(|all| groups.contains(&all.group)) {
        return Vec::new();
    }
    let reasons = RPC.into_iter().filter_map(|contender| {
        let reason = contenders::left_out(contender)?;
        Some(format!("{}: {reason}", contender.label()))
    });
    reasons.collect()
}

fn case(flight: usize, prefetch: u16, payload: usize) -> Case {
    Case {
        flight,
        prefetch,
        payload,
    }
}

fn rpc(full: bool) -> Vec<Comparison> {
    let cases = if full { every_rpc() } else { telling_rpc() };
    let compare = |case: Case| {
        let is_there = |contender: &Contender| contenders::left_out(*contender).is_none();
        let entries = RPC.into_iter().filter(is_there).map(|contender| Entry {
            label: contender.label().into(),
            place: match contender {
                Contender::Nats => Place::Nats,
                Contender::Tarpc => Place::Nowhere,
                _ => Place::RabbitMq,
            },
            work: Work::Rpc,
            contender,
            case,
            program: None,
        });
        Comparison {
            group: Group::Rpc,
            title: case.to_string(),
            entries: entries.collect(),
        }
    };
    cases.into_iter().map(compare).collect()
}

fn telling_rpc() -> Vec<Case> {
    vec![
        case(1, 1, 16),
        case(64, 1, 16),
        case(64, 64, 16),
        case(256, 256, 16),
        case(4096, 256, 16),
        case(64, 64, 1024),
        case(64, 64, 64 * 1024),
    ]
}

/// Without a prefetch larger than the calls in flight, which says nothing new, and without more
/// than 64 large payloads at once.
fn every_rpc() -> Vec<Case> {
    let mut cases = Vec::new();
    for payload in [16, 1024, 64 * 1024] {
        for flight in [1, 64, 256, 4096] {
            for prefetch in [1, 64, 256] {
                let fits = usize::from(prefetch) <= flight;
                if fits && (payload < 64 * 1024 || flight <= 64) {
                    cases.push(case(flight, prefetch, payload));
                }
            }
        }
    }
    cases
}

/// Lepus beside lapin by hand, at the same work on RabbitMQ.
fn beside(
    group: Group,
    title: String,
    work: Work,
    case: Case,
    entries: &[(Contender, &str)],
) -> Comparison {
    let entries = entries.iter().map(|(contender, label)| Entry {
        label: (*label).into(),
        place: Place::RabbitMq,
        work,
        contender: *contender,
        case,
        program: None,
    });
    Comparison {
        group,
        title,
        entries: entries.collect(),
    }
}

fn jobs(full: bool) -> Vec<Comparison> {
    let (payloads, prefetches): (&[usize], &[u16]) = if full {
        (&[16, 1024], &[1, 64, 256])
    } else {
        (&[16], &[64])
    };
    let mut comparisons = Vec::new();
    for &payload in payloads {
        comparisons.push(beside(
            Group::Jobs,
            format!("push, one task, pipelined, {payload} B"),
            Work::PushAll,
            case(1, 1, payload),
            &[
                (Contender::Naive, "pipelined lapin"),
                (Contender::NaiveInFull, "pipelined lapin, in full"),
                (Contender::Lepus, "Lepus, push_all"),
            ],
        ));
        comparisons.push(beside(
            Group::Jobs,
            format!("push, 256 tasks, {payload} B"),
            Work::Push,
            case(256, 1, payload),
            &[
                (Contender::Naive, "naive lapin"),
                (Contender::NaiveInFull, "naive lapin, in full"),
                (Contender::Lepus, "Lepus, push"),
            ],
        ));
        for &prefetch in prefetches {
            comparisons.push(beside(
                Group::Jobs,
                format!("consume and acknowledge, prefetch {prefetch}, {payload} B"),
                Work::Consume,
                case(1, prefetch, payload),
                &[
                    (Contender::Naive, "naive lapin"),
                    (Contender::Lepus, "Lepus"),
                ],
            ));
        }
    }
    comparisons
}

fn pubsub(full: bool) -> Vec<Comparison> {
    let payloads: &[usize] = if full { &[16, 1024] } else { &[16] };
    let mut comparisons = Vec::new();
    for &payload in payloads {
        for (confirmed, how) in [(true, "confirmed"), (false, "unconfirmed")] {
            comparisons.push(beside(
                Group::PubSub,
                format!("fanout, {how}, 256 in flight, {payload} B"),
                Work::Events { confirmed },
                case(256, 1, payload),
                &[
                    (Contender::Naive, "naive lapin"),
                    (Contender::NaiveInFull, "naive lapin, in full"),
                    (Contender::Lepus, "Lepus"),
                ],
            ));
        }
    }
    comparisons
}

/// Items of each size at each window; streams at rest; an item while many other streams are open.
fn streams() -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for payload in [16, 1024, 64 * 1024] {
        for window in [1, 32, 1024] {
            let others = 0;
            comparisons.push(streaming(Work::Stream { window, others }, payload, window));
        }
    }
    let ours = |title: &str, entries: &[(String, Work)]| {
        let entries = entries.iter().map(|(label, work)| Entry {
            label: label.clone(),
            place: Place::RabbitMq,
            work: *work,
            contender: Contender::Lepus,
            case: case(1, 1, 16),
            program: None,
        });
        Comparison {
            group: Group::Streams,
            title: title.into(),
            entries: entries.collect(),
        }
    };
    let among = [0, 1000].map(|others| {
        let work = Work::Stream { window: 32, others };
        (format!("{others} others open"), work)
    });
    comparisons.push(ours("items among open streams, window 32, 16 B", &among));
    let at_rest = [("1000 at rest".into(), Work::StreamsAtRest(1000))];
    comparisons.push(ours("memory of streams", &at_rest));
    comparisons
}

fn streaming(work: Work, payload: usize, window: u32) -> Comparison {
    let entries = [
        (Contender::Naive, "lapin by hand", Place::RabbitMq),
        (Contender::Lepus, "Lepus", Place::RabbitMq),
        (Contender::Nats, "NATS by hand", Place::Nats),
        (Contender::Tonic, Contender::Tonic.label(), Place::Nowhere),
    ];
    let is_there =
        |(contender, _, _): &(Contender, _, _)| contenders::left_out(*contender).is_none();
    let entries = entries.into_iter().filter(is_there);
    let entries = entries.map(|(contender, label, place)| Entry {
        label: label.into(),
        place,
        work,
        contender,
        case: case(1, 1, payload),
        program: None,
    });
    let size = match payload {
        0..1024 => format!("{payload} B"),
        _ => format!("{} KiB", payload / 1024),
    };
    Comparison {
        group: Group::Streams,
        title: format!("items, window {window}, {size}"),
        entries: entries.collect(),
    }
}

fn broker() -> Vec<Comparison> {
    let compare = |(flight, prefetch)| {
        let case = case(flight, prefetch, 16);
        let places = [(Place::RabbitMq, "RabbitMQ"), (Place::Embedded, "embedded")];
        let entries = places.map(|(place, label)| Entry {
            label: label.into(),
            place,
            work: Work::Rpc,
            contender: Contender::Lepus,
            case,
            program: None,
        });
        Comparison {
            group: Group::Broker,
            title: format!("Lepus, {case}"),
            entries: entries.into(),
        }
    };
    [(1, 1), (64, 64), (256, 256)].map(compare).into()
}

fn local() -> Vec<Comparison> {
    let works = [
        (Work::Handler, "the handler alone"),
        (Work::Local, "EchoClient::local"),
    ];
    vec![Comparison {
        group: Group::Local,
        title: "a call in this process, 16 B".into(),
        entries: works
            .map(|(work, label)| Entry {
                label: label.into(),
                place: Place::Nowhere,
                work,
                contender: Contender::Lepus,
                case: case(1, 1, 16),
                program: None,
            })
            .into(),
    }]
}

fn flat() -> Vec<Comparison> {
    let compare = |title: &str, entries: &[(String, Work, usize)]| {
        let entries = entries.iter().map(|(label, work, flight)| Entry {
            label: label.clone(),
            place: Place::RabbitMq,
            work: *work,
            contender: Contender::Lepus,
            case: case(*flight, 256, 16),
            program: None,
        });
        Comparison {
            group: Group::Flat,
            title: title.into(),
            entries: entries.collect(),
        }
    };
    let flights = [64, 1000, 10_000].map(|k| (format!("{k} in flight"), Work::Rpc, k));
    let methods = [1, 1000].map(|n| (format!("methods: {n}"), Work::Methods(n), 64));
    let services = [1, 100].map(|n| (format!("services: {n}"), Work::Services(n), 64));
    let memory = [("10000 waiting".into(), Work::Waiting(10_000), 1)];
    vec![
        compare("calls in flight", &flights),
        compare("methods of a service, 64 in flight", &methods),
        compare("services of a server, 64 in flight", &services),
        compare("memory of a client", &memory),
    ]
}
