//! RPC as one writes it first on lapin: see `lepus_tests::naive`.

use lepus_tests::naive::{self, Caller};

use crate::load::Operation;
use crate::task::Task;

pub async fn serve(task: &Task) -> String {
    let (queue, prefetch) = (task.name("echo"), task.case.prefetch);
    naive::serve(&task.address, &queue, prefetch, |payload| payload).await;
    String::new()
}

pub async fn client(task: &Task) -> Operation {
    let caller = Caller::open(&task.address, &task.name("echo")).await;
    let payload = task.payload();
    Operation::new(move || {
        let (caller, payload) = (caller.clone(), payload.clone());
        async move { assert_eq!(caller.call(&payload).await.len(), payload.len()) }
    })
}
