//! Work queues: producers, pools of workers, retries and dead letters.
//!
//! A [`WorkQueue`] is the start of everything: it makes the producers, pools, getters and dead letters of its
//! jobs. `#[lepus::tasks]` generates jobs that are methods of a trait, which a [`TaskPool`] runs.

pub use crate::cancellation::Cancellation;
pub use crate::policy::retry::RetryPolicy;
pub use crate::policy::verdict::{
    Failure, IntoVerdict, JobError, Retry, Verdict, VerdictOutcome, reject, retry, retry_after,
};
pub use crate::queue::{
    DeadLetter, DeadLetterReader, DeadLetters, Getter, Job, PolledJob, Producer, Push, TaskPool,
    TaskProducer, WorkQueue, WorkerPool,
};
pub use crate::service::Tasks;
