//! Tests of the code that `#[tasks]` generates.

use crate::stub::{Connection, Request, TaskProducer, Tasks, Verdict, WorkQueue, run};
use std::fmt;

#[derive(Debug)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too large")
    }
}

/// Pictures.
#[lepus_macros::tasks(crate = crate::stub, version = "1.0.0")]
pub trait Images {
    /// Makes one smaller.
    #[task(timeout = "5m")]
    async fn resize(&self, id: u64, width: u32) -> Result<(), TooLarge>;

    #[task(name = "drop", params = "bare")]
    async fn forget(&self, id: u64);

    async fn sweep(&self);
}

struct Shop;

impl Images for Shop {
    async fn resize(&self, _id: u64, width: u32) -> Result<(), TooLarge> {
        if width > 1_000 { Err(TooLarge) } else { Ok(()) }
    }
    async fn forget(&self, _id: u64) {}
    async fn sweep(&self) {}
}

#[test]
fn a_job_is_pushed_with_its_arguments() {
    let connection = Connection::default();
    let producer = ImagesProducer::new(&connection).clone();
    assert_eq!(run(producer.resize(7, 640)), Ok(()));
    let pushed = run(producer.push_all([producer.forget(7), producer.forget(8)]));
    assert_eq!(pushed, [Ok(()), Ok(())]);
    let other = TaskProducer::new(&connection, ImagesProducer::DESCRIPTOR);
    assert_eq!(run(ImagesProducer::with_producer(other).sweep()), Ok(()));
    let sent = connection.sent.lock().unwrap();
    let sent: Vec<_> = sent
        .iter()
        .map(|(name, body)| (*name, body.as_str()))
        .collect();
    assert_eq!(
        sent,
        [
            ("resize", r#"{"id":7,"width":640}"#),
            ("drop", "7"),
            ("drop", "8"),
            ("sweep", "{}")
        ]
    );
}

#[test]
fn a_worker_gives_verdicts() {
    let worker = ImagesWorker::new(Shop).clone();
    let work = |method, body: &str| {
        run(worker.run(Request {
            method,
            body: body.to_owned(),
        }))
    };
    assert_eq!(work(0, r#"{"id":7,"width":640}"#), Verdict::Done);
    assert_eq!(
        work(0, r#"{"id":7,"width":6400}"#),
        Verdict::Failed("too large".to_owned())
    );
    assert_eq!(work(0, "{}"), Verdict::Undecodable);
    assert_eq!(work(1, "7"), Verdict::Done);
    assert_eq!(work(2, "whatever"), Verdict::Done);
    assert_eq!(work(3, "{}"), Verdict::Unknown);
    assert_eq!(format!("{worker:?}"), "ImagesWorker { .. }");
}

mod objects {
    use crate::stub::{Request, Tasks, Verdict, run};
    use std::sync::Arc;

    #[lepus_macros::tasks(crate = crate::stub, dyn)]
    pub trait Chores {
        async fn sweep(&self, room: u8) -> Result<(), String>;
    }

    struct Broom;

    #[async_trait::async_trait]
    impl Chores for Broom {
        async fn sweep(&self, room: u8) -> Result<(), String> {
            if room == 13 {
                Err("locked".to_owned())
            } else {
                Ok(())
            }
        }
    }

    #[test]
    fn a_trait_object_works() {
        let chores: Arc<dyn Chores> = Arc::new(Broom);
        let worker = ChoresWorker::from_arc(chores);
        let work = |body: &str| {
            run(worker.run(Request {
                method: 0,
                body: body.to_owned(),
            }))
        };
        assert_eq!(work(r#"{"room":1}"#), Verdict::Done);
        assert_eq!(work(r#"{"room":13}"#), Verdict::Failed("locked".to_owned()));
    }
}

#[test]
fn a_dead_letter_is_a_variant_with_the_arguments() {
    let connection = Connection::default();
    let letters = ImagesWorker::dead_letters(&connection);
    assert_eq!((letters.tasks, letters.queue), ("images", None));
    let resize = letters.read(r#"{"resize":{"id":7,"width":640}}"#).unwrap();
    assert_eq!(format!("{resize:?}"), "Resize { .. }");
    assert!(matches!(resize, ImagesTask::Resize { id: 7, width: 640 }));
    let resize = letters.read(r#"{"resize":[7,640]}"#);
    assert!(matches!(resize, Ok(ImagesTask::Resize { id: 7, .. })));
    let drop = letters.read(r#"{"drop":7}"#);
    assert!(matches!(drop, Ok(ImagesTask::Forget(7))));
    let sweep = letters.read(r#""sweep""#);
    assert!(matches!(sweep, Ok(ImagesTask::Sweep)));
    let error = letters.read(r#"{"forget":7}"#).unwrap_err();
    assert!(
        error.contains("expected one of `resize`, `drop`, `sweep`"),
        "{error}"
    );
    let queue = WorkQueue {
        name: "other",
        payload: std::marker::PhantomData::<u8>,
    };
    let letters = ImagesWorker::dead_letters_on(&connection, &queue);
    assert_eq!((letters.tasks, letters.queue), ("images", Some("other")));
}

mod unusual {
    use crate::stub::Connection;

    /// Names that make the same variant, and arguments that may be missing.
    #[lepus_macros::tasks(crate = crate::stub, worker)]
    pub trait Odd {
        async fn find_it(&self, first: Option<u8>, r#type: Option<String>);
        #[allow(non_snake_case)]
        async fn find__it(&self);
        async fn r#type(&self);
        async fn self_(&self);
        async fn _1(&self);
    }

    #[lepus_macros::tasks(crate = crate::stub)]
    pub trait Empty {}

    #[test]
    fn every_trait_has_its_enum() {
        let letters = OddWorker::dead_letters(&Connection::default());
        for found in [r#"{"find_it":[]}"#, r#"{"find_it":{"type":null}}"#] {
            let found = letters.read(found);
            assert!(matches!(
                found,
                Ok(OddTask::FindIt {
                    first: None,
                    r#type: None
                })
            ));
        }
        for (job, shown) in [
            (r#""find__it""#, "FindIt_"),
            (r#""type""#, "Type"),
            (r#""self_""#, "Self_"),
            (r#""_1""#, "_1"),
        ] {
            assert_eq!(format!("{:?}", letters.read(job).unwrap()), shown);
        }
        let empty = EmptyWorker::dead_letters(&Connection::default());
        empty.read(r#""any""#).unwrap_err();
    }
}

#[test]
fn the_descriptor_says_it_all() {
    let tasks = ImagesWorker::<Shop>::DESCRIPTOR;
    assert_eq!(tasks.name, "images");
    assert_eq!(tasks.doc, "Pictures.");
    let names: Vec<_> = tasks.methods.iter().map(|it| it.name).collect();
    assert_eq!(names, ["resize", "drop", "sweep"]);
    let resize = tasks.methods.first().unwrap();
    assert_eq!(resize.timeout_millis, Some(300_000));
    assert_eq!(resize.arguments, ["id", "width"]);
    assert_eq!(
        ImagesWorker::from_arc(std::sync::Arc::new(Shop))
            .descriptor()
            .name,
        "images"
    );
}
