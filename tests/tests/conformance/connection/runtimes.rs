//! Threads and runtimes: calls from a thread without tokio, a connection whose runtime has ended,
//! and the last clone of a connection dropped in the wrong places.

use lepus::{Connection, Error, Job, Server, Topic, WorkQueue, amqp::ConnectionState, rpc::Client};
use lepus_tests::probe::{Probe, ProbeClient, ProbeServer, Subject, serve};
use lepus_tests::{Env, conformance, eventually};
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const LONG: Duration = Duration::from_secs(30);

conformance!(outside:
    calls_and_pushes_are_errors,
    what_was_sent_inside_and_is_awaited_outside,
    servers_and_workers_start_or_say_why_not,
    opening_is_an_error,
    closing_works,
);

conformance!(ended:
    a_runtime_that_ends_closes_its_connections,
    a_connection_never_used_is_closed_too,
    the_last_clone_is_dropped_in_a_task,
    the_last_clone_is_dropped_in_a_runtime_of_one_thread,
);

/// Runs a future as an executor without tokio does, on a thread of its own.
async fn without_tokio<T, F>(make: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let work = move || {
        assert!(tokio::runtime::Handle::try_current().is_err());
        block_on(make())
    };
    let thread = thread::spawn(work);
    let joined = tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    joined.expect("no panic")
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn says_so(what: &str, error: &Error) {
    let text = error.to_string();
    assert!(error.is_invalid(), "{what}: {error:?}");
    assert!(text.contains("not in a tokio runtime"), "{what}: {text}");
    assert!(!error.may_have_executed(), "{what}: {text}");
}

fn topic() -> Topic<String> {
    Topic::new("runtimes").transient().auto_delete()
}

async fn calls_and_pushes_are_errors(env: Env) {
    let connection = env.connect().await;
    let queue = WorkQueue::<String>::new("runtimes");
    env.name("runtimes");
    // Once with everything still to be opened, and once with it open.
    for round in ["first", "second"] {
        let probe = ProbeClient::new(&connection);
        let error = without_tokio(move || async move {
            let error = probe.echo("hi".into()).await.unwrap_err();
            let sent = probe.echo("hi".into()).send().await.err();
            [Some(error), sent].map(|error| error.unwrap().rpc().unwrap().clone())
        })
        .await;
        error.iter().for_each(|error| says_so("a call", error));

        let producer = queue.producer(&connection);
        let delayed = producer.push(&"later".into()).delay(LONG);
        let pushing = producer.clone();
        let errors = without_tokio(move || async move {
            let error = pushing.push(&"now".into()).await.unwrap_err();
            let delayed = delayed.await.unwrap_err();
            let jobs = ["a".to_owned(), "b".to_owned()];
            let many = pushing.push_all(&jobs).await;
            let mut errors = vec![error, delayed];
            errors.extend(many.into_iter().map(Result::unwrap_err));
            errors
        })
        .await;
        assert_eq!(errors.len(), 4);
        errors.iter().for_each(|error| says_so("a push", error));

        for publisher in [
            topic().publisher(&connection),
            topic().publisher(&connection).unconfirmed(),
        ] {
            let error =
                without_tokio(
                    move || async move { publisher.publish("a", "event").await.unwrap_err() },
                )
                .await;
            says_so("a publish", &error);
            assert!(!round.is_empty());
        }

        let local = ProbeClient::from(Client::local(ProbeServer::new(Subject::default())));
        let error = without_tokio(move || local.echo("hi".into()).into_future()).await;
        says_so("a local call", error.unwrap_err().rpc().unwrap());

        // Inside they all work, on the same connection.
        producer.push(&"now".into()).await.unwrap();
        topic().publisher(&connection).declare().await.unwrap();
    }
}

async fn what_was_sent_inside_and_is_awaited_outside(env: Env) {
    let connection = env.connect().await;
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let _server = serve(&connection, &subject).start().await.unwrap();
    let probe = ProbeClient::new(&connection);
    let reply = probe.echo("hi".into()).send().await.unwrap();
    let error = without_tokio(move || reply).await.unwrap_err();
    let error = error.rpc().unwrap().clone();
    assert!(
        error.to_string().contains("not in a tokio runtime"),
        "{error}"
    );
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(probe.echo("hi".into()).await.unwrap(), "hi");
}

/// Starts that need no timer of the caller's runtime work; nothing panics.
async fn servers_and_workers_start_or_say_why_not(env: Env) {
    let connection = env.connect().await;
    let queue = WorkQueue::<String>::new("runtimes");
    env.name("runtimes");
    env.name("probe");
    queue.declare(&connection).await.unwrap();
    let fine = |what: &str, result: Result<(), Error>| {
        if let Err(error) = result {
            says_so(what, &error);
        }
    };

    let server = Server::new(&connection).serve(ProbeServer::new(Subject::default()));
    let worked = without_tokio(move || async move { server.start().await?.stop().await }).await;
    fine("a server", worked);

    let pool = queue.worker(&connection);
    let worked =
        without_tokio(
            move || async move { pool.start(async |_: Job<String>| {}).await?.stop().await },
        );
    fine("a worker", worked.await);

    let (getter, letters) = (queue.getter(&connection), queue.dead_letters(&connection));
    let worked = without_tokio(move || async move {
        getter.next().await.map(drop)?;
        letters.count().await?;
        letters.list(10).await?;
        letters.replay().await?;
        letters.purge().await.map(drop)
    });
    fine("looking", worked.await);

    let declaring = connection.clone();
    let worked = without_tokio(move || async move {
        WorkQueue::<String>::new("runtimes")
            .declare(&declaring)
            .await?;
        topic().declare(&declaring).await
    });
    fine("declaring", worked.await);

    let subscribing = connection.clone();
    let worked = without_tokio(move || async move {
        let subscription = topic().subscribe(&subscribing).bind("#").stream().await?;
        subscription.close().await
    });
    fine("subscribing", worked.await);
    connection.close().await;
}

async fn opening_is_an_error(env: Env) {
    let builder = env.builder();
    let error = without_tokio(move || builder.open()).await.unwrap_err();
    says_so("opening", &error);
    let uri = env.uri.clone();
    let opening = without_tokio(move || async move { Connection::open(&uri).await });
    says_so("opening", &opening.await.unwrap_err());
}

async fn closing_works(env: Env) {
    for use_it in [false, true] {
        let connection = env.connect().await;
        if use_it {
            topic().declare(&connection).await.unwrap();
        }
        let (closing, state) = (connection.clone(), connection.state());
        without_tokio(move || async move { closing.close().await }).await;
        assert!(matches!(*state.borrow(), ConnectionState::Closed));
        // And the last clone goes out there as well.
        without_tokio(move || async move { drop(connection) }).await;
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Opens a connection on a runtime of its own; gives both back.
async fn elsewhere(env: &Env, runtime: Runtime) -> (Runtime, Connection) {
    let builder = env.builder();
    let opening = move || {
        let connection = runtime.block_on(builder.open()).unwrap();
        (runtime, connection)
    };
    tokio::task::spawn_blocking(opening).await.unwrap()
}

async fn a_runtime_that_ends_closes_its_connections(env: Env) {
    let queue = WorkQueue::<String>::new("runtimes");
    env.name("runtimes");
    let many = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    for runtime in [one_thread(), many.unwrap()] {
        let (runtime, connection) = elsewhere(&env, runtime).await;
        // It may be used from here as long as its own runtime lives.
        let producer = queue.producer(&connection);
        producer.push(&"job".into()).await.unwrap();
        let mut state = connection.state();
        assert!(state.borrow().is_connected());
        let probe = ProbeClient::new(&connection);
        let call = {
            let probe = probe.clone();
            tokio::spawn(async move { probe.hold(1).timeout(LONG).await })
        };

        tokio::task::spawn_blocking(move || drop(runtime))
            .await
            .unwrap();
        let closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed);
        state.wait_for(closed).await.unwrap();
        let error = call.await.unwrap().unwrap_err();
        let error = error.rpc().unwrap();
        assert!(error.is_closed() || error.is_unroutable(), "{error}");
        let error = probe.echo("hi".into()).await.unwrap_err();
        assert!(error.is_closed(), "{error}");
        let error = producer.push(&"job".into()).await.unwrap_err();
        assert!(error.is_closed(), "{error}");
        let worker = queue.worker(&connection);
        let error = worker.start(async |_: Job<String>| {}).await.unwrap_err();
        assert!(error.is_closed(), "{error}");
        let error = queue.getter(&connection).next().await.err().unwrap();
        assert!(error.is_closed(), "{error}");
        connection.close().await;
    }
    left_alone(&env).await;
}

async fn a_connection_never_used_is_closed_too(env: Env) {
    let (runtime, connection) = elsewhere(&env, one_thread()).await;
    tokio::task::spawn_blocking(move || drop(runtime))
        .await
        .unwrap();
    assert!(matches!(
        *connection.state().borrow(),
        ConnectionState::Closed
    ));
    left_alone(&env).await;
    let error = ProbeClient::new(&connection).echo("hi".into()).await;
    assert!(error.unwrap_err().is_closed());
}

async fn the_last_clone_is_dropped_in_a_task(env: Env) {
    for use_it in [false, true] {
        let connection = env.connect().await;
        if use_it {
            topic().declare(&connection).await.unwrap();
        }
        tokio::spawn(async move { drop(connection) }).await.unwrap();
    }
    left_alone(&env).await;
}

async fn the_last_clone_is_dropped_in_a_runtime_of_one_thread(env: Env) {
    let builder = env.builder();
    let work = move || {
        let runtime = one_thread();
        runtime.block_on(async move {
            let connection = builder.open().await.unwrap();
            topic().declare(&connection).await.unwrap();
            drop(connection);
        });
        // And with the runtime itself, inside a task that is never done.
        let other = one_thread();
        let connection = other.block_on(
            Connection::builder("amqp://localhost:1")
                .retry_at_start()
                .open(),
        );
        other.spawn(async move {
            let _held = connection.unwrap();
            std::future::pending::<()>().await;
        });
        drop(other);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    left_alone(&env).await;
}

/// Nobody is connected any more.
async fn left_alone(env: &Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("a shared node has connections of others");
    };
    eventually("no connection is left", || async {
        broker.connections().is_empty()
    })
    .await;
}

/// For the compiler: the trait is used.
fn _is_probe<T: Probe>() {}
