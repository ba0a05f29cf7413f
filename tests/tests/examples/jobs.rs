//! The examples of work queues: run, against each other and against the tutorial's own programs,
//! and their output compared.

use lepus_tests::process::{Program, Signal, example, python, python_is_available};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};
use tokio::sync::{Mutex, MutexGuard};

conformance!(
    hello,
    hello_with_python,
    task_queue,
    two_workers_share,
    task_queue_with_python,
    thumbnails,
);

/// The tutorials' queues have the same names everywhere: one test at a time, and nothing is left
/// behind.
static NAMES: Mutex<()> = Mutex::const_new(());

async fn clean(env: &Env, queues: &[&str]) -> (Raw, MutexGuard<'static, ()>) {
    let turn = NAMES.lock().await;
    let raw = Raw::open(&env.uri).await;
    for queue in queues {
        raw.delete(queue).await;
    }
    (raw, turn)
}

fn start(env: &Env, name: &str, arguments: &[&str]) -> Program {
    Program::spawn(example(name).args(arguments).env("AMQP_URL", &env.uri))
}

async fn run(env: &Env, name: &str, arguments: &[&str]) -> Vec<String> {
    start(env, name, arguments).succeeded().await
}

async fn ready(env: &Env, name: &str) -> Program {
    let mut program = start(env, name, &[]);
    let words = " [*] Waiting for messages. To exit press CTRL+C";
    assert_eq!(program.line().await, words);
    program
}

async fn stop(program: Program) {
    program.signal(Signal::TERM);
    assert_eq!(program.succeeded().await, Vec::<String>::new());
}

async fn hello(env: Env) {
    let (raw, _turn) = clean(&env, &["hello", "hello.dead"]).await;
    assert_eq!(
        run(&env, "producer", &[]).await,
        [" [x] Sent 'Hello World!'"],
        "with nobody there yet"
    );
    let mut consumer = ready(&env, "consumer").await;
    assert_eq!(consumer.line().await, " [x] Received Hello World!");
    run(&env, "producer", &["all", "ears"]).await;
    assert_eq!(consumer.line().await, " [x] Received all ears");
    stop(consumer).await;
    raw.until_messages("hello", 0).await;
    clean_up(&raw, &["hello", "hello.dead"]).await;
}

async fn task_queue(env: Env) {
    let (raw, _turn) = clean(&env, &["task_queue", "task_queue.dead"]).await;
    let sent = run(&env, "new_task", &["a", "task."]).await;
    assert_eq!(sent, [" [x] Sent a task."]);
    let mut worker = ready(&env, "worker").await;
    assert_eq!(worker.line().await, " [x] Received a task.");
    assert_eq!(worker.line().await, " [x] Done");
    // A worker that dies gives its job to another.
    run(&env, "new_task", &["a long one............"]).await;
    let words = " [x] Received a long one............";
    assert_eq!(worker.line().await, words);
    worker.signal(Signal::KILL);
    worker.ended().await;
    let mut worker = ready(&env, "worker").await;
    assert_eq!(worker.line().await, words);
    drop(worker);
    clean_up(&raw, &["task_queue", "task_queue.dead"]).await;
}

async fn two_workers_share(env: Env) {
    let (raw, _turn) = clean(&env, &["task_queue", "task_queue.dead"]).await;
    let mut busy = ready(&env, "worker").await;
    run(&env, "new_task", &["slow................................"]).await;
    busy.line_with("slow").await;
    let mut idle = ready(&env, "worker").await;
    for task in ["one", "two", "three"] {
        run(&env, "new_task", &[task]).await;
        assert_eq!(idle.line().await, format!(" [x] Received {task}"));
        assert_eq!(idle.line().await, " [x] Done");
    }
    stop(idle).await;
    drop(busy);
    clean_up(&raw, &["task_queue", "task_queue.dead"]).await;
}

async fn hello_with_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (raw, _turn) = clean(&env, &["hello", "hello.dead"]).await;
    let mut theirs = peer(&env, "tutorial/receive.py").await;
    run(&env, "producer", &["Grüße", "aus", "Rust"]).await;
    assert_eq!(theirs.line().await, " [x] Received 'Grüße aus Rust'");
    theirs.signal(Signal::TERM);
    theirs.ended().await;

    let mut ours = ready(&env, "consumer").await;
    let sent = their(&env, "tutorial/send.py", &[]).succeeded().await;
    assert_eq!(sent, [" [x] Sent 'Hello World!'"]);
    assert_eq!(ours.line().await, " [x] Received Hello World!");
    stop(ours).await;
    clean_up(&raw, &["hello", "hello.dead"]).await;
}

async fn task_queue_with_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (raw, _turn) = clean(&env, &["task_queue", "task_queue.dead"]).await;
    let mut theirs = peer(&env, "tutorial/worker.py").await;
    run(&env, "new_task", &["from", "Rust"]).await;
    assert_eq!(theirs.line().await, " [x] Received 'from Rust'");
    assert_eq!(theirs.line().await, " [x] Done");
    // The two share one queue, whoever comes first.
    let mut ours = ready(&env, "worker").await;
    run(&env, "new_task", &["slow................................"]).await;
    let busy = tokio::select! {
        line = theirs.line() => line,
        line = ours.line() => line,
    };
    assert!(busy.contains("slow"), "{busy}");
    let theirs_is_busy = busy.contains('\'');
    let sent = their(&env, "tutorial/new_task.py", &["from", "Python"]);
    assert_eq!(sent.succeeded().await, [" [x] Sent 'from Python'"]);
    let idle = if theirs_is_busy {
        &mut ours
    } else {
        &mut theirs
    };
    let line = idle.line().await.replace('\'', "");
    assert_eq!(line, " [x] Received from Python");
    assert_eq!(idle.line().await, " [x] Done");
    drop((ours, theirs));
    clean_up(&raw, &["task_queue", "task_queue.dead"]).await;
}

fn their(env: &Env, script: &str, arguments: &[&str]) -> Program {
    Program::spawn(python(script).args(arguments).env("AMQP_URL", &env.uri))
}

/// A peer that goes on until it is told; returns when it says that it waits.
async fn peer(env: &Env, script: &str) -> Program {
    let mut program = their(env, script, &[]);
    program.line_with(" [*] Waiting").await;
    program
}

async fn thumbnails(env: Env) {
    let queues = [
        "thumbnails",
        "thumbnails.dead",
        "thumbnails.retry.200",
        "thumbnails.retry.300",
        "thumbnails.retry.500",
    ];
    let (raw, _turn) = clean(&env, &queues).await;
    let mut lines = run(&env, "thumbnails", &[]).await;
    assert_eq!(lines.remove(0), "broker: the one AMQP_URL names");
    let fixed = [
        "producer: hare.png is stored",
        "producer: fox.png is stored",
        "producer: notes.txt is stored",
        "producer: owl.png is stored, for later",
    ];
    assert_eq!(lines[..4], fixed);
    let letter = r#"dead letter: {"image":"notes.txt","width":320}: rejected after 1 attempt(s): this is no image"#;
    assert_eq!(lines.last().map(String::as_str), Some(letter));
    // Two work at once, so that only the order of one image's lines is certain.
    let of = |image: &str| -> Vec<&str> {
        let lines = lines.iter().filter(|line| line.starts_with("worker: "));
        lines
            .filter(|line| line.contains(image))
            .map(String::as_str)
            .collect()
    };
    let hare = [
        "worker: hare.png at 640 px, attempt 1",
        "worker: hare.png is done",
    ];
    assert_eq!(of("hare.png"), hare);
    let fox = [
        "worker: fox.png at 320 px, attempt 1",
        "worker: fox.png at 320 px, attempt 2",
        "worker: fox.png at 320 px, attempt 3",
        "worker: fox.png is done",
    ];
    assert_eq!(of("fox.png"), fox);
    assert_eq!(of("notes.txt"), ["worker: notes.txt at 320 px, attempt 1"]);
    let owl = [
        "worker: owl.png at 64 px, attempt 1",
        "worker: owl.png is done",
    ];
    assert_eq!(of("owl.png"), owl);
    assert_eq!(lines.len(), 4 + 2 + 4 + 1 + 2 + 1, "{lines:#?}");
    clean_up(&raw, &queues).await;
}

async fn clean_up(raw: &Raw, queues: &[&str]) {
    for queue in queues {
        raw.delete(queue).await;
    }
}
