//! A run of everything at random: callers, servers, producers and workers over links that break
//! in every way, and a judge at the end. `tests/chaos` has its long form.
//!
//! `LEPUS_CHAOS_SECONDS` is how long it goes on, `LEPUS_CHAOS_SEED` what it is drawn from.

mod actors;
mod book;
mod dice;
mod nemesis;
mod processes;
mod readers;
mod recovery;
mod streams;
mod uploaders;
mod uploads;
mod variants;

use crate::streams::StreamEnd;
use crate::uploads::UploadEnd;
use actors::{CONCURRENCY, GROWING, Refusals, Shift};
use book::{Book, End};
use dice::Dice;
use lapin::BasicProperties;
use lepus::Connection;
use lepus_broker::Broker;
use lepus_tests::Env;
use lepus_tests::chaos_peers::{
    self, ATTEMPTS, BROKER_LIMIT, CAP, GROUP, Going, KEY, LIMIT, OVERSIZE, Queues, STREAMS, Task,
};
use lepus_tests::env::{On, run_with};
use lepus_tests::eventually::{while_it_moves, within};
use lepus_tests::proxy::Proxy;
use lepus_tests::raw::Raw;
use nemesis::Target;
use processes::{PROCESSES, Phase};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// At the end, for as long nothing may stand still before everything is at rest.
const REST: Duration = Duration::from_secs(40);

/// For an answer once the faults are over. The broker may have to find out first, by its
/// heartbeats, that whom it gave the request to is gone.
const ANSWER: Duration = Duration::from_secs(10);

mod embedded {
    #[tokio::test(flavor = "multi_thread")]
    async fn no_invariant_is_violated() {
        super::start(super::On::Embedded, "embedded::no_invariant_is_violated").await;
    }
}

mod rabbitmq {
    #[tokio::test(flavor = "multi_thread")]
    async fn no_invariant_is_violated() {
        super::start(super::On::RabbitMq, "rabbitmq::no_invariant_is_violated").await;
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect(variable))
}

async fn start(on: On, name: &'static str) {
    let time = Duration::from_secs(number("LEPUS_CHAOS_SECONDS").unwrap_or(15));
    let seed = number("LEPUS_CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).expect("a clock");
        u64::from(since.subsec_nanos())
    });
    println!("{name}: LEPUS_CHAOS_SEED={seed}");
    let broker = Broker::builder().max_message(BROKER_LIMIT);
    // What has piled up takes its time on a busy machine.
    let limit = 2 * time + 8 * REST;
    run_with(broker, limit, on, name, |env| chaos(env, seed, time)).await;
}

/// The four links that break, each with its users.
struct World {
    proxies: [Arc<Proxy>; 4],
    connections: Vec<Connection>,
}

impl World {
    async fn new(env: &Env) -> World {
        let proxies = [
            Arc::new(Proxy::start(&env.uri).await),
            Arc::new(Proxy::start(&env.uri).await),
            Arc::new(Proxy::start(&env.uri).await),
            Arc::new(Proxy::start(&env.uri).await),
        ];
        let mut connections = Vec::new();
        for proxy in &proxies {
            for _ in 0..2 {
                let builder = env
                    .builder_at(proxy.uri())
                    .heartbeat(Duration::from_secs(1))
                    .connect_timeout(Duration::from_secs(2))
                    .backoff(Duration::from_millis(20), CAP)
                    .max_message_size(LIMIT);
                connections.push(builder.open().await.expect("a connection"));
            }
        }
        World {
            proxies,
            connections,
        }
    }

    fn callers(&self) -> &[Connection] {
        &self.connections[0..2]
    }

    fn servers(&self) -> &[Connection] {
        &self.connections[2..4]
    }

    fn producers(&self) -> &[Connection] {
        &self.connections[4..6]
    }

    fn workers(&self) -> &[Connection] {
        &self.connections[6..8]
    }

    /// Links that those who serve and those who work have had.
    fn losses(&self) -> [u64; 2] {
        [self.proxies[1].accepted(), self.proxies[3].accepted()]
    }
}

/// Whether the broker refuses what is larger than a run's limit, which not every broker is set to.
async fn refuses_oversize(env: &Env) -> bool {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("size");
    raw.declare(&queue).await;
    let body = vec![0; OVERSIZE];
    let sent = raw.publish_with("", &queue, &body, BasicProperties::default());
    let is_refused = sent.await.is_err();
    if !is_refused {
        env.leave_out("messages too large for this broker: its max_message_size is not 100000");
    }
    is_refused
}

async fn chaos(env: Env, seed: u64, time: Duration) {
    let env = Arc::new(env);
    let book = Arc::new(Book::default());
    let shift = Arc::new(Shift::default());
    let world = World::new(&env).await;
    let raw = Raw::open(&env.uri).await;
    let refusals = Refusals {
        are_oversize: refuses_oversize(&env).await,
    };
    let events = format!("events.{GROUP}");
    let places = ["chaos", "jobs", "killed", "doomed", "fleeting", &events];
    let others = |queue: &str| {
        ["dead", "retry.10", "retry.20", "retry.50", "retry.100"]
            .map(|more| env.name(&format!("{queue}.{more}")))
    };
    // The service has none.
    let others = [&places[1..], &[]]
        .concat()
        .into_iter()
        .map(others)
        .collect::<Vec<_>>();
    let places = places.map(|queue| env.name(queue));
    for queue in ["narrow", "narrow.dead"] {
        env.name(queue);
    }
    let queues = Queues::default();
    let Queues {
        main,
        killed,
        doomed,
        fleeting,
        narrow,
        ..
    } = &queues;
    for queue in [main, killed, doomed, fleeting, narrow] {
        queue.declare(&world.connections[4]).await.unwrap();
    }
    let mut running = Vec::new();
    for (connection, concurrency) in world.servers().iter().zip(CONCURRENCY) {
        let server = chaos_peers::serve(connection, concurrency, Arc::clone(&book) as _).await;
        running.push(server.expect("a server"));
    }
    for (connection, concurrency) in world.workers().iter().zip(CONCURRENCY) {
        for queue in [main, doomed, fleeting] {
            let pool =
                chaos_peers::work(connection, queue, concurrency, Arc::clone(&book) as _).await;
            running.push(pool.expect("a pool of workers"));
        }
        let members = chaos_peers::attend(connection, concurrency, Arc::clone(&book) as _).await;
        running.push(members.expect("members of the group"));
    }
    let (phase, told) = watch::channel(Phase::Torment);
    let mut children = JoinSet::new();
    for process in 0..PROCESSES {
        let dice = Dice::of(seed, &format!("process {process}"));
        let (env, told, book) = (Arc::clone(&env), told.clone(), Arc::clone(&book));
        children.spawn(processes::keep(env, dice, told, book));
    }
    let mut crowd = JoinSet::new();
    for actor in 0..8 {
        let connection = world.callers()[actor % 2].clone();
        let dice = Dice::of(seed, &format!("caller {actor}"));
        crowd.spawn(actors::call(
            connection,
            dice,
            refusals,
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for (actor, connection) in world.callers().iter().enumerate() {
        crowd.spawn(actors::call_together(
            connection.clone(),
            Dice::of(seed, &format!("callers {actor}")),
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for (actor, connection) in world.callers().iter().enumerate() {
        crowd.spawn(actors::drop_calls(
            connection.clone(),
            Dice::of(seed, &format!("dropper {actor}")),
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for actor in 0..4 {
        crowd.spawn(readers::read(
            world.callers()[actor % 2].clone(),
            Dice::of(seed, &format!("reader {actor}")),
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for (actor, connection) in world.callers().iter().enumerate() {
        crowd.spawn(uploaders::upload(
            connection.clone(),
            Dice::of(seed, &format!("uploader {actor}")),
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for actor in 0..4 {
        let connection = world.producers()[actor % 2].clone();
        let dice = Dice::of(seed, &format!("producer {actor}"));
        crowd.spawn(actors::push(
            connection,
            dice,
            refusals,
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    for (actor, connection) in world.producers().iter().enumerate() {
        crowd.spawn(actors::publish(
            connection.clone(),
            Dice::of(seed, &format!("publisher {actor}")),
            Arc::clone(&shift),
            Arc::clone(&book),
        ));
    }
    let mut nemesis = JoinSet::new();
    for (link, proxy) in world.proxies.iter().enumerate() {
        let dice = Dice::of(seed, &format!("link {link}"));
        nemesis.spawn(nemesis::haunt(Arc::clone(proxy), dice, Arc::clone(&book)));
    }
    let vandal = Raw::open(&env.uri).await;
    let dice = Dice::of(seed, "vandal");
    let (at, and) = (places[0].clone(), places[1].clone());
    nemesis.spawn(nemesis::vandalise(vandal, at, and, dice, Arc::clone(&book)));

    let jobs = |place: usize| Target::Jobs {
        main: places[place].clone(),
        others: others[place - 1].to_vec(),
    };
    let event_exchange = Target::Events {
        exchange: env.name("events"),
        queue: places[5].clone(),
        key: KEY,
    };
    let mut targets = vec![jobs(4), Target::Service(places[0].clone()), event_exchange];
    if env.server.version.starts_with("4.0.") {
        // Its Raft server dies over a write of the queue that had the name before
        // (`ra_log_event`), and stays dead: `rabbitmqctl list_queues` shows the state `down`.
        env.leave_out("RabbitMQ 4.0 may lose a quorum queue that is declared again at once");
    } else {
        targets.push(jobs(3));
    }
    let mut demolition = JoinSet::new();
    for (which, target) in targets.into_iter().enumerate() {
        let dice = Dice::of(seed, &format!("demolition {which}"));
        let (uri, told, book) = (env.uri.clone(), told.clone(), Arc::clone(&book));
        demolition.spawn(nemesis::demolish(uri, target, dice, told, book));
    }

    // The length of the run, which its caller has chosen.
    tokio::time::sleep(time).await;
    nemesis.shutdown().await;
    phase.send_replace(Phase::Calm);
    while let Some(ended) = demolition.join_next().await {
        ended.expect("all is put right");
    }
    for proxy in &world.proxies {
        nemesis::heal(proxy).await;
    }
    recovers(&world, &book, &raw, &places[0]).await;
    cancels(&world, &book).await;
    streams_again(&world, &book).await;
    shift.end();
    while let Some(ended) = crowd.join_next().await {
        ended.expect("an actor does not panic");
    }
    let waiting: Vec<_> = others
        .iter()
        .flatten()
        .filter(|queue| !queue.ends_with("dead"))
        .collect();
    rest(&env, &world, &book, &raw, &places, &waiting).await;
    phase.send_replace(Phase::End);
    while let Some(ended) = children.join_next().await {
        ended.expect("a process ends in order");
    }
    permits_are_back(&world, &book).await;
    for running in running {
        running.stop().await.expect("an orderly end");
    }
    for queue in &places {
        let left = raw.count(queue).await;
        assert_eq!((left.messages, left.consumers), (0, 0), "{queue}");
    }
    read_the_rest(&world, &queues, &raw, &env, &book).await;
    let (again, redelivered) = book.duplicates();
    let hands = u64::from(CONCURRENCY.iter().max().copied().unwrap_or_default());
    let ([servers, workers], (lost_there, there)) = (world.losses(), book.processes());
    let here = redelivered - there;
    // Each queue may have had two consumers whose end the broker had not seen, and two more.
    let in_hand = 2 * CONCURRENCY.iter().copied().map(u64::from).sum::<u64>();
    let (lost, deletions) = book.lost_with_queues(in_hand);
    let again_beyond = book.runs_beyond_two(GROWING);
    println!(
        "{} {}, seed {seed}, {time:?} of faults\n{book}",
        env.server.product, env.server.version
    );
    println!(
        "  {servers} links of servers and {workers} of workers, {lost_there} processes killed or \
         frozen; {again} calls ran again, {here} jobs were redelivered, {there} more in processes; \
         {lost} jobs were lost with their queues, which were deleted {deletions} times"
    );
    let (dropped, cancelled) = book.dropped();
    println!("  {dropped} calls were dropped, of which {cancelled} were cancelled as they ran");
    let hands_there = u64::from(processes::CONCURRENCY);
    // Three pools and the members of the group share each link.
    for (redelivered, most) in [
        (here, workers * 4 * hands),
        (there, lost_there * hands_there),
    ] {
        if redelivered > most {
            book.complain(format!(
                "8: {redelivered} jobs redelivered, of at most {most}"
            ));
        }
    }
    if again_beyond > servers + lost_there {
        book.complain(format!(
            "8: calls whose reply is refused ran {again_beyond} times beyond twice"
        ));
    }
    for connection in &world.connections {
        let stats = connection.stats();
        if stats.pending_calls + stats.running + stats.unsettled + stats.open_streams > 0 {
            book.complain(format!("leak: {stats:?}"));
        }
        connection.close().await;
        let held = async || (connection.stats().channels == 0).then_some(());
        within("no channel is held", REST, held).await;
    }
    within("every link is closed", REST, || async {
        let open: usize = world.proxies.iter().map(|proxy| proxy.open()).sum();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    if let Some(broker) = env.embedded() {
        within("no queue of a connection is left", REST, || async {
            let queues = broker.queues().into_iter().map(|queue| queue.name);
            let left: Vec<_> = queues.filter(|name| name.contains("lepus.")).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(", "))
            }
        })
        .await;
    }
    let violations = book.violations();
    assert!(
        violations.is_empty(),
        "LEPUS_CHAOS_SEED={seed}: {} violations:\n{}",
        violations.len(),
        some_of_each(&violations).join("\n")
    );
}

/// Not more than five about each invariant.
fn some_of_each(violations: &[String]) -> Vec<&str> {
    let mut seen = BTreeMap::new();
    let mut is_shown = |text: &&str| {
        let about = text.split_once(':').map_or("", |(number, _)| number);
        let count = seen.entry(about.to_owned()).or_insert(0);
        *count += 1;
        *count <= 5
    };
    let texts = violations.iter().map(String::as_str);
    texts.filter(|text| is_shown(text)).collect()
}

/// 13: once the faults are over, every caller soon gets an answer.
async fn recovers(world: &World, book: &Book, raw: &Raw, service: &str) {
    let healed = Instant::now();
    for connection in world.callers() {
        let chaos = chaos_peers::ChaosClient::new(connection);
        let id = u64::MAX - healed.elapsed().as_nanos() as u64;
        book.call(id, "after", book::Runs::Any, REST);
        within("a call is answered", REST, || async {
            let reply = chaos.again(id, String::new()).timeout(ANSWER).await;
            match reply {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}; {:?}", raw.try_count(service).await)),
            }
        })
        .await;
        book.call_ended(id, End::Done);
    }
    for connection in world.producers() {
        let publisher = chaos_peers::events().publisher(connection).mandatory();
        let id = u64::MAX - healed.elapsed().as_nanos() as u64;
        book.push(id, book::Fate::Done, REST);
        let event = Task::new(id, Going::Well);
        within("an event is taken", REST, || async {
            publisher.publish(KEY, &event).await
        })
        .await;
        book.pushed(id, End::Done);
    }
    println!("  recovered {:?} after the last fault", healed.elapsed());
    // The promise itself is a time: the cap of the backoff, an attempt that was under way, and a busy machine.
    let limit = CAP + ANSWER;
    if healed.elapsed() > limit {
        book.complain(format!("13: recovered after {:?}", healed.elapsed()));
    }
}

/// 13: once the faults are over, streams are opened and end with all their items, in both directions.
async fn streams_again(world: &World, book: &Arc<Book>) {
    const LENGTH: u64 = 200;
    let next = AtomicU64::new(u64::MAX / 3);
    for connection in world.callers() {
        let chaos = chaos_peers::ChaosClient::new(connection);
        within("a stream is read to its end", REST, || async {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let end = readers::read_one(&chaos, book, id, LENGTH).await;
            (end == StreamEnd::Complete).then_some(())
        })
        .await;
        within("an upload is read to its end", REST, || async {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let end = uploaders::upload_one(&chaos, book, id, LENGTH).await;
            (end == UploadEnd::Answered).then_some(())
        })
        .await;
    }
}

/// 17: the servers of this process have room for all the streams that they may have. The broker gives the requests to both,
/// so some are refused by one that is full already.
async fn permits_are_back(world: &World, book: &Book) {
    const LENGTH: u64 = 1_000;
    let chaos = chaos_peers::ChaosClient::new(&world.callers()[0]);
    let all = world.servers().len() * STREAMS;
    let mut held = Vec::new();
    let open_all = async {
        let mut next = u64::MAX / 4;
        while held.len() < all {
            next += 1;
            book.streams.open(next, LENGTH);
            match chaos.numbered(next, LENGTH).window(1).await {
                Ok(stream) => held.push((next, stream)),
                Err(error) => {
                    let may_have_run = error.rpc().is_none_or(lepus::Error::may_have_executed);
                    let end = match may_have_run {
                        true => StreamEnd::Unknown,
                        false => StreamEnd::NotRun,
                    };
                    book.streams.ended(next, end);
                }
            }
        }
    };
    if tokio::time::timeout(REST, open_all).await.is_err() {
        let open = held.len();
        book.complain(format!("17: {open} of {all} streams can be opened"));
    }
    for (id, stream) in held {
        drop(stream);
        book.streams.ended(id, StreamEnd::Dropped);
    }
}

/// 15: once the faults are over, the handler of a call that is dropped is told. The first servers may not have their
/// control queues again, and the first calls may not have begun.
async fn cancels(world: &World, book: &Book) {
    let (limit, patience) = (Duration::from_secs(1), Duration::from_millis(200));
    let next = AtomicU64::new(u64::MAX / 2);
    for connection in world.callers() {
        let chaos = chaos_peers::ChaosClient::new(connection);
        let first = next.load(Ordering::Relaxed);
        within("a dropped call is cancelled", REST, || async {
            let id = next.fetch_add(1, Ordering::Relaxed);
            book.call(id, "dropped after", book::Runs::AtMostOnce, limit);
            let call = chaos.hangs(id).timeout(limit).into_future();
            let end = match tokio::time::timeout(patience, call).await {
                Ok(reply) => actors::failed(reply, id, book),
                Err(_) => End::Dropped,
            };
            book.call_ended(id, end);
            (first..=id).any(|id| book.was_cancelled(id))
        })
        .await;
    }
}

/// Everything that was begun is brought to its end; 14: everybody is at their place.
async fn rest(
    env: &Env,
    world: &World,
    book: &Book,
    raw: &Raw,
    places: &[String; 6],
    waiting: &[&String],
) {
    // In each place: those of this process and those of the others.
    let consumers = [2 + PROCESSES, 2, PROCESSES, 2, 2, 2];
    while_it_moves(
        "all confirmed jobs have ended, or are lost",
        REST,
        || async {
            let mut wrong = Vec::new();
            for (place, consumers) in places.iter().zip(consumers) {
                // One that was deleted is soon there again.
                match raw.try_count(place).await {
                    Ok(now) if (now.messages, now.consumers as usize) == (0, consumers) => {}
                    now => wrong.push(format!("{place}: {now:?}")),
                }
            }
            // Those that wait for another attempt come back within the longest backoff.
            if wrong.is_empty() {
                Ok(())
            } else {
                Err(format!("{wrong:?}, {} jobs", book.unfinished()))
            }
        },
    )
    .await;
    // Jobs of queues that are deleted are not waited for one by one: some are lost.
    let runs = std::sync::Mutex::new((usize::MAX, Instant::now()));
    within("nobody waits for another attempt", REST, || async {
        for queue in waiting {
            if let Ok(now) = raw.try_count(queue).await
                && now.messages > 0
            {
                return Err(format!("{queue}: {now:?}"));
            }
        }
        let mut runs = runs.lock().expect("no panic under a lock");
        if runs.0 != book.runs() {
            *runs = (book.runs(), Instant::now());
        }
        // Longer than the longest backoff: a job between two queues is in no count, so no event tells of it.
        if runs.1.elapsed() > Duration::from_secs(1) {
            Ok(())
        } else {
            Err(format!("{} runs", runs.0))
        }
    })
    .await;
    let looked = Instant::now();
    // One that is lost, or among the dead letters, is never done; the judge names it.
    within("nothing moves any more", REST, || async {
        let running: u64 = world
            .connections
            .iter()
            .map(Connection::stats)
            .map(|stats| stats.running + stats.unsettled + stats.pending_calls + stats.open_streams)
            .sum();
        let streams = book.streams.running() + book.uploads.running();
        let running = running + streams as u64;
        let unfinished = book.unfinished();
        if running == 0 && (unfinished == 0 || looked.elapsed() > REST / 2) {
            Ok(())
        } else {
            Err(format!("{running} at work, {unfinished} jobs unfinished"))
        }
    })
    .await;
    if let Some(broker) = env.embedded() {
        // That of a server is there for as long as its connection, and has nothing for anybody.
        let own = broker.queues().into_iter();
        for queue in own.filter(|queue| queue.name.contains("lepus.stream.")) {
            if queue.ready + queue.unacked > 0 {
                book.complain(format!("leak: {queue:?}"));
            }
        }
        for queue in places {
            let info = broker.queue(queue).expect("the queue");
            if info.ready + info.unacked > 0 {
                book.complain(format!("leak: {info:?}"));
            }
        }
    }
}

/// The messages in the queues that nobody works on: dead letters, and jobs that were kept.
async fn read_the_rest(world: &World, queues: &Queues, raw: &Raw, env: &Env, book: &Book) {
    let mut letters = Vec::new();
    for queue in [
        &queues.main,
        &queues.killed,
        &queues.doomed,
        &queues.fleeting,
    ] {
        let dead = queue.dead_letters(&world.connections[5]);
        letters.extend(dead.list(1_000_000).await.expect("the dead letters"));
    }
    for letter in letters {
        if letter.reason().is_empty() || letter.attempt() > ATTEMPTS {
            book.complain(format!("10: {letter:?}"));
        }
        match letter.payload() {
            Ok(Task { id, .. }) => book.job_dead(*id),
            // Rubbish, as it came.
            Err(error) if error.is_decode() => {}
            Err(error) => book.complain(format!("10: {error}")),
        }
    }
    let narrow = queues.narrow.getter(&world.connections[5]);
    while let Some(taken) = narrow.next().await.expect("a look into the queue") {
        let task = taken.ack().expect("a job of ours");
        book.job_kept(task.id);
    }
    assert_eq!(raw.count(&env.name("narrow")).await.messages, 0);
}
